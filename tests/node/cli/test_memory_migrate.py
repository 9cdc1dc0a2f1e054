"""caxton memory migrate."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.memory.backends.protocol import GROUP
from tests.node.cli.conftest import Shell
from tests.node.cli.test_memory_upkeep import memory_file

PACKAGE = """
from tests.node.memory.test_migrating import Ledger

class Whole(Ledger):
    def __getattr__(self, name):  # what a migration does not need
        return lambda *_: None

    async def aclose(self):
        self.closed = True

KEPT = Whole()

async def make(context, options):
    assert options == {"password": "s3cret"}
    return KEPT
"""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "a_ledger_for_tests.py").write_text(PACKAGE)
    told = tmp_path / "a_ledger-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: a-ledger\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{GROUP}]\nledger = a_ledger_for_tests:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("a_ledger_for_tests", None)


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "node.yaml"
    file.write_text(f"storage: {{data_dir: {tmp_path}}}\nmemory: {{options: {{password: s3cret}}}}\n")
    return str(file)


def test_the_file_goes_into_another_backend(ledger: None, config: str, shell: Shell, tmp_path: Path) -> None:
    memory_file(tmp_path)
    assert shell("memory", "migrate", "--to", "ledger", "--config", config) == 0
    assert "1 entities, 1 observations, 0 relations" in shell.out
    assert "memory.backend: ledger" in shell.out
    kept = sys.modules["a_ledger_for_tests"].KEPT
    assert kept.closed
    assert [told["text"] for _, told in kept.observations.values()] == ["is green"]
    assert shell("memory", "migrate", "--to", "ledger", "--config", config) == 1
    assert "is not empty" in shell.err
    for each in (kept.heads, kept.observations, kept.lines):
        each.clear()
    assert shell("memory", "migrate", "--to", "ledger", "--config", config, "--json") == 0
    assert json.loads(shell.out)["entities"] == 1
    assert "s3cret" not in shell.out + shell.err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("embedded", "not into it"),
        ("qdrant", "qdrant.host"),
        ("neo4j", "neo4j.uri"),
        ("ledgre", "there is no memory backend"),
    ],
)
def test_what_cannot_be_migrated_to_is_said_so(
    config: str, shell: Shell, tmp_path: Path, name: str, why: str
) -> None:
    memory_file(tmp_path)
    assert shell("memory", "migrate", "--to", name, "--config", config) == 2
    assert why in shell.err


def test_a_node_that_has_no_memory_has_none_to_migrate(ledger: None, config: str, shell: Shell) -> None:
    assert shell("memory", "migrate", "--to", "ledger", "--config", config) == 1
    assert "there is no memory" in shell.err


def test_a_server_that_is_away_is_told(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        f"storage: {{data_dir: {tmp_path}}}\nmemory: {{qdrant: {{host: 127.0.0.1, port: 1, tls: no}}}}\n"
    )
    memory_file(tmp_path)
    assert shell("memory", "migrate", "--to", "qdrant", "--config", str(file)) == 1
    assert "Qdrant server http://127.0.0.1:1 failed" in shell.err
