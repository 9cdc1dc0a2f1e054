"""caxton memory export, import, check, backup, reembed and dedup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from node.cli import memory_upkeep
from node.environment import system_environment
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.records import Limits
from node.memory.room import FILE, MemoryRoom
from node.memory.scopes import OPERATOR
from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_members import rows
from tests.node.memory.stand_in import WordEmbedder

IMPORTED: dict[str, Any] = {
    "lines": 3,
    "entities_created": 1,
    "entities_known": 2,
    "observations_added": 3,
    "observations_known": 4,
    "relations_added": 5,
    "relations_known": 6,
    "refused": 0,
    "errors": [],
    "stopped_by": None,
}
WHOLE = {"ok": True, "findings": [], "entities": 1, "observations": 2, "relations": 3, "unembedded": 0}
WRONG = WHOLE | {
    "ok": False,
    "findings": [{"check": "words", "what": "a \x1b[2J is missing", "count": 7, "examples": ["key 3"]}],
}
TEA = {"type": "entity", "name": "tea", "entityType": "drink"}
ERROR = {"code": "VALIDATION_ERROR", "message": "it is \x1b[2J no JSON", "why": "x", "fix": "Correct it."}


def memory_file(folder: Path) -> Path:
    """A memory with one observation."""

    async def fill() -> None:
        async def embedder() -> WordEmbedder:
            return WordEmbedder()

        room = MemoryRoom(
            environment=system_environment(),
            path=folder / FILE,
            durability="normal",
            node="n1",
            limits=Limits(),
            threshold=0.3,
            make_embedder=embedder,
        )
        store = await room.store()
        draft = EntityDraft("tea", "drink", (ObservationDraft("is green"),))
        await store.remember(OPERATOR, Realm(Scope.GLOBAL), [draft])
        room.close()

    trio.run(fill)
    return folder / FILE


def test_an_export_is_written_whole_or_not_at_all(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    node.answers["GET", "/memory/export"] = 200, b'{"type":"end"}\n'
    file = tmp_path / "out.jsonl"
    assert shell("memory", "export", str(file), "--agent", "ada", "--vectors") == 0
    assert file.read_bytes() == b'{"type":"end"}\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert "15 bytes" in shell.out
    assert node.requests[-1][1] == "/memory/export?agent_id=ada&format=jsonl&include_embeddings=true"
    assert shell("memory", "export", "--format", "mcp") == 0
    assert shell.out == '{"type":"end"}\n'
    assert shell("memory", "export", "--json") == 2
    assert shell("memory", "export", str(tmp_path / "missing" / "out")) == 1
    node.answers["GET", "/memory/export"] = 403, {"error": {"code": "FORBIDDEN", "message": "no"}}
    assert shell("memory", "export", str(tmp_path / "other")) == 4
    assert sorted(path.name for path in tmp_path.glob("o*")) == ["out.jsonl"]


class Taking:
    """Keeps what is sent to the node, line by line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
        self.sent, self.query = b"", {}

        def send(client: Any, path: str, content: Any, *, silence_s: float, **query: Any) -> Any:
            del client, silence_s
            assert path == "/memory/import/stream"
            self.sent, self.query = b"".join(content), query
            return answer

        monkeypatch.setattr(memory_upkeep.Client, "send", send)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.sent.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TEA) + "\n",
        json.dumps({"format": "caxton-memory", "version": 1, "entities": [TEA], "relations": [], "end": {}})
        + "\n",
        json.dumps({"entities": [{k: v for k, v in TEA.items() if k != "type"}]}, indent=2),
    ],
)
def test_lines_and_documents_are_sent_as_lines(
    node: FakeNode, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    taking, file = Taking(monkeypatch, IMPORTED), tmp_path / "in"
    file.write_text(text)
    assert shell("memory", "import", str(file), "--merge", "skip_existing", "--scope", "global") == 0
    assert [line for line in taking.lines if line["type"] == "entity"] == [TEA]
    assert {line["type"] for line in taking.lines} <= {"header", "entity", "end"}
    assert taking.query["merge_strategy"] == "skip_existing"
    assert taking.query["memory_scope"] == "global"
    assert "added 1 entities, 3 observations, 5 relations" in shell.out
    del node


def test_what_was_not_taken_is_told_and_makes_the_exit_status(
    node: FakeNode, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del node
    told = IMPORTED | {"refused": 1, "errors": [{"line": 2, "error": ERROR}]}
    told |= {"stopped_by": {"line": 9, "error": ERROR}}
    Taking(monkeypatch, told)
    file = tmp_path / "in"
    file.write_text("{}\n")
    assert shell("memory", "import", str(file)) == 1
    assert "line 2: it is" in shell.err
    assert "Stopped at line 9" in shell.err
    assert "\x1b" not in shell.err
    assert shell("memory", "import", str(tmp_path / "missing")) == 2
    file.write_text('{\n"entities": [1]}')
    assert shell("memory", "import", str(file)) == 2


def test_findings_are_shown_and_make_the_exit_status(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/memory/check"] = 200, WHOLE
    assert shell("memory", "check") == 0
    assert "whole: 1 entities" in shell.out
    node.answers["GET", "/memory/check"] = 200, WRONG
    assert shell("memory", "check") == 1
    assert rows(shell)[1][:2] == ["words", "7"]
    assert "\x1b" not in shell.out
    node.answers["POST", "/memory/repair"] = 200, {"found": WRONG, "left": WHOLE}
    assert shell("memory", "check", "--repair") == 0
    assert "repaired" in shell.out
    node.answers["POST", "/memory/repair"] = 200, {"found": WRONG, "left": WRONG}
    assert shell("memory", "check", "--repair") == 1
    assert shell.json("memory", "check")["ok"] is False


def test_the_file_of_a_stopped_node_is_checked_and_repaired(shell: Shell, tmp_path: Path) -> None:
    file = memory_file(tmp_path)
    assert shell("memory", "check", "--data-dir", str(tmp_path)) == 0
    connection = apsw.Connection(str(file))
    connection.execute("UPDATE realms SET entities = 9")
    connection.close()
    assert shell("memory", "check", "--data-dir", str(file)) == 1
    assert "counts" in shell.out
    assert shell("memory", "check", "--data-dir", str(tmp_path), "--repair") == 0
    assert shell.json("memory", "check", "--data-dir", str(tmp_path))["observations"] == 1
    assert shell("memory", "check", "--data-dir", str(tmp_path / "nowhere")) == 1
    assert not (tmp_path / "nowhere").exists()
    file.write_bytes(b"no pages of SQLite" * 1000)
    assert shell("memory", "check", "--data-dir", str(tmp_path)) == 1
    assert "memory.db" in shell.err
    assert file.read_bytes() == b"no pages of SQLite" * 1000


def test_a_copy_is_checked_when_it_is_there(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    source = memory_file(tmp_path)
    node.answers["GET", "/memory/backup"] = 200, source.read_bytes()
    copy = tmp_path / "copy.db"
    assert shell("memory", "backup", str(copy)) == 0
    assert "it is whole" in shell.out
    assert copy.read_bytes() == source.read_bytes()
    node.answers["GET", "/memory/backup"] = 200, b"nonsense"
    assert shell("memory", "backup", str(tmp_path / "bad.db")) == 1
    assert "bad.db is no memory" in shell.err


def test_the_vectors_are_waited_for(node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_upkeep, "LOOK_EVERY_S", 0.0)
    told = {"state": "running", "model": "m", "done": 1, "total": 3, "remaining": 2, "failure": None}
    node.answers["POST", "/memory/reembed"] = 202, told
    node.answers["GET", "/memory/reembed"] = 200, told | {"state": "idle", "done": 3, "remaining": 0}
    assert shell("memory", "reembed") == 0
    assert "3 of 3 observations have vectors of m" in shell.out
    assert shell("memory", "reembed", "--no-wait") == 0
    assert "1 of 3" in shell.out
    node.answers["POST", "/memory/reembed"] = (
        202,
        told | {"state": "no model", "model": None, "failure": "none"},
    )
    assert shell("memory", "reembed") == 1
    assert "none" in shell.err


def test_the_status_says_how_the_memory_is_searched(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/agents"] = 200, {"agents": []}
    for memory, said in (
        ({"embedding_error": "the model is \x1b[2J damaged"}, "by words only: the model is"),
        ({"upkeep": {"reembedding": {"state": "running"}}}, "being embedded"),
    ):
        node.answers["GET", "/status"] = 200, {"node": "alpha", "rooms": {"memory": memory}}
        assert shell("status") == 0
        assert said in shell.out
        assert "\x1b" not in shell.out


def test_near_equals_are_shown_page_by_page_and_changed_when_told_to(node: FakeNode, shell: Shell) -> None:
    pair = {"entity_name": "tea", "similarity": 0.97, "superseded": "is hot", "kept": "is \x1bhot"}
    node.answers["POST", "/memory/dedup"] = 200, {"pairs": [pair], "superseded": 0, "next": None}
    assert shell("memory", "dedup", "--agent", "ada") == 0
    assert "nothing was changed" in shell.out
    assert rows(shell)[2][:2] == ["tea", "0.970"]
    assert node.requests[-1][2] == {"agent_id": "ada", "threshold": 0.95, "dry_run": True}
    node.answers["POST", "/memory/dedup"] = 200, {"pairs": [pair], "superseded": 1, "next": None}
    assert shell("memory", "dedup", "--apply") == 0
    assert "1 superseded" in shell.out
    assert shell("memory", "dedup", "--threshold", "0.2") == 2
