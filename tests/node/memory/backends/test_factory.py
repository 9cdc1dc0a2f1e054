"""Which backend is made for which configuration, those of other packages among them."""

import sys
from pathlib import Path

import pytest

from node.config.memory import MemoryConfig
from node.environment import system_environment
from node.errors import ConfigInvalid, MemoryBackendFailed, MemoryNotOffered, ScopeDenied
from node.memory.backends.factory import how_kept
from node.memory.backends.protocol import GROUP
from node.memory.model import EntityDraft, Realm, Scope
from node.memory.records import Limits
from node.memory.room import MemoryRoom
from node.memory.scopes import OPERATOR, for_agent
from tests.node.memory.stand_in import WordEmbedder

PACKAGE = """
from pathlib import Path
import trio
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage

class Custom(MemoryStore):
    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        task_status.started()
        await trio.sleep_forever()
    async def aclose(self):
        self.storage.close()
    async def take(self, parts): ...
    async def take_relations(self, relations): ...

async def make(context, options):
    storage = Storage.open(
        Path(options["path"]), durability="normal", environment=context.environment, design=MEMORY
    )
    return Custom(storage, context.embedder, context.environment, node=context.node)

async def poor(context, options):
    return object()
"""
ENTRIES = f"""[{GROUP}]
custom = a_backend_for_tests:make
poor = a_backend_for_tests:poor
broken = a_backend_for_tests:nothing
qdrant = a_backend_for_tests:poor
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    (tmp_path / "a_backend_for_tests.py").write_text(PACKAGE)
    told = tmp_path / "a_backend-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: a-backend\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("a_backend_for_tests", None)


def kept(name, **options):
    config = MemoryConfig.model_validate({"backend": name, **options})
    return how_kept(config, system_environment(), "n1")


def test_the_file_alone_needs_nothing():
    found = kept("embedded")
    assert (found.vectors, found.outside) == (None, None)
    assert kept("qdrant", qdrant={"host": "127.0.0.1", "tls": False}).vectors is not None


async def test_a_backend_of_another_package_is_used_through_the_gate(installed: Path, autojump_clock):
    async def embedder():
        return WordEmbedder()

    room = MemoryRoom(
        environment=system_environment(),
        path=installed / "unused.db",
        durability="normal",
        node="n1",
        limits=Limits(),
        threshold=0.3,
        make_embedder=embedder,
        make_outside=kept("custom", options={"path": str(installed / "theirs.db")}).outside,
    )
    memory = await room.existing()
    await memory.remember(for_agent("ada"), Realm(Scope.AGENT, "ada"), [EntityDraft("tea", "drink")])
    assert [each.name for each in await memory.entities(OPERATOR)] == ["tea"]
    with pytest.raises(ScopeDenied):
        await memory.remember(for_agent("bob"), Realm(Scope.AGENT, "ada"), [EntityDraft("tea", "drink")])
    with pytest.raises(MemoryNotOffered):
        await room.upkeep()
    assert not (installed / "unused.db").exists()
    assert room.statistics()["open"] is True
    await room._outside.aclose()


@pytest.mark.parametrize(("name", "why"), [("custmo", "custom"), ("broken", "nothing"), ("graphs", GROUP)])
def test_a_backend_that_is_not_there_is_said_so_at_the_start(installed, name, why):
    with pytest.raises(ConfigInvalid) as caught:
        kept(name)
    assert why in str(caught.value.as_json())


async def test_a_backend_that_lacks_a_verb_is_refused(installed):
    with pytest.raises(MemoryBackendFailed, match=r"clear.*walk"):
        await kept("poor").outside(None)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"backend": "qdrant"}, "qdrant.host"),
        ({"backend": "Qdrant!"}, "the name of a backend"),
        ({"backend": "qdrant", "qdrant": {"host": "vectors.example.org", "tls": False}}, "tls: false"),
        ({"backend": "qdrant", "qdrant": {"host": "a b"}}, "pattern"),
        ({"backend": "qdrant", "qdrant": {"host": "h", "collection_name": "a/b"}}, "pattern"),
        ({"backend": "custom", "replication": {"enabled": True}}, "replication.enabled"),
        ({"backend": "custom", "retention": {"max_age_s": 9.0}}, "retention"),
        ({"backend": "custom", "options": {str(n): "x" for n in range(65)}}, "at most 64"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(said, why):
    with pytest.raises(ValueError, match=why.replace(".", r"\.")):
        MemoryConfig.model_validate(said)


def test_secrets_are_not_shown():
    config = MemoryConfig.model_validate(
        {"backend": "qdrant", "qdrant": {"host": "h", "api_key": "s3cret"}, "options": {"password": "s3cret"}}
    )
    assert "s3cret" not in repr(config) + config.model_dump_json()
    assert config.qdrant.key == "s3cret"
    assert config.qdrant.url == "https://h:6333"
    assert MemoryConfig().replicated
    assert not MemoryConfig(backend="custom").replicated
