"""A compiled module is loaded only if this node wrote it; the directory stays private and bounded."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from node.agents.wasm.compiled import CompiledModules, artifact_name
from node.agents.wasm.engine import WasmEngine
from tests.node.agents.rooms import MemoryStore
from tests.node.agents.wasm.guests import House, ask, guest

KEY = bytes(32)
NAME = artifact_name(b"module", "50.0.0", "fuel")


def load(modules: CompiledModules, name: str) -> bytes | None:
    return modules.load(name, lambda path: path.read_bytes()[:-32])


def found(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_what_was_saved_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    modules = CompiledModules(tmp_path / "cache", KEY)
    assert load(modules, NAME) is None
    modules.save(NAME, b"code")
    assert load(modules, NAME) == b"code"
    assert load(modules, artifact_name(b"module", "51.0.0", "fuel")) is None
    [path] = found(tmp_path / "cache")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    counted = modules.statistics()
    assert (counted["hits"], counted["misses"], counted["bytes"]) == (1, 2, path.stat().st_size)


def test_names_tell_modules_versions_and_configurations_apart() -> None:
    names = {artifact_name(b, v, c) for b in (b"a", b"b") for v in ("1", "2") for c in ("x", "y")}
    assert len(names) == 8


def change_code(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


def change_mac(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-32] + bytes(32))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [change_code, change_mac, cut, empty])
def test_a_changed_file_is_refused_and_removed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    modules = CompiledModules(tmp_path, KEY)
    modules.save(NAME, b"code")
    [path] = found(tmp_path)
    damage(path)
    assert load(modules, NAME) is None
    assert modules.statistics()["refused"] == 1
    assert found(tmp_path) == []


def test_the_file_of_another_node_or_of_another_name_is_refused(tmp_path: Path) -> None:
    CompiledModules(tmp_path, bytes(31) + b"1").save(NAME, b"code")
    modules = CompiledModules(tmp_path, KEY)
    assert load(modules, NAME) is None
    modules.save(NAME, b"code")
    other = artifact_name(b"another")
    [path] = found(tmp_path)
    path.rename(path.with_name(path.name.replace(NAME, other)))
    assert load(modules, other) is None
    assert modules.statistics()["refused"] == 2


def test_links_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    modules = CompiledModules(tmp_path / "cache", KEY)
    modules.save(NAME, b"code")
    [path] = found(tmp_path / "cache")
    path.rename(tmp_path / "elsewhere")
    for make in (partial(path.symlink_to, tmp_path / "elsewhere"), partial(os.mkfifo, path), path.mkdir):
        make()
        assert load(modules, NAME) is None
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def test_what_was_used_longest_ago_leaves_first(tmp_path: Path) -> None:
    modules = CompiledModules(tmp_path, KEY, limit_bytes=3 * (1000 + 32))
    names = [artifact_name(bytes([n])) for n in range(4)]
    for at, name in enumerate(names[:3]):
        modules.save(name, bytes(1000))
        os.utime(tmp_path / f"{name}.compiled", (at, at))
    assert load(modules, names[0]) is not None
    modules.save(names[3], bytes(1000))
    assert [load(modules, name) is not None for name in names] == [True, False, True, True]
    modules.save(artifact_name(b"huge"), bytes(4000))
    assert modules.statistics()["evicted"] == 1
    assert modules.statistics()["bytes"] <= modules.statistics()["bytes_limit"]


def test_a_directory_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    modules = CompiledModules(tmp_path / "file", KEY)
    modules.save(NAME, b"code")
    assert load(modules, NAME) is None


async def test_a_restart_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    for hits, misses in ((0, 1), (1, 0)):
        if hits:
            monkeypatch.delattr(WasmEngine, "compile")
        house = House(store=store, cache=tmp_path)
        assert await ask(await house.load(guest())) == 1
        counted = house.runtime.statistics()["compiled"]
        assert (counted["hits"], counted["misses"]) == (hits, misses)


async def test_an_artifact_that_the_engine_cannot_use_is_compiled_again(tmp_path: Path) -> None:
    store = MemoryStore()
    await House(store=store, cache=tmp_path).load(guest())
    house = House(store=store, cache=tmp_path)
    agent = await house.load(guest(more="(func)"))  # makes the key known
    key = bytes(store.connection.execute("SELECT value FROM meta").fetchone()[0])
    for path in found(tmp_path):
        CompiledModules(tmp_path, key).save(path.stem, b"not machine code")
    await agent.aclose()
    assert await ask(await House(store=store, cache=tmp_path).load(guest())) == 1


async def test_modules_that_are_the_same_are_compiled_once() -> None:
    house = House()
    first = await house.load(guest(), agent="first")
    second = await house.load(guest(), agent="second")
    assert house.runtime.statistics() == {"modules": 1}
    assert (await ask(first), await ask(second)) == (1, 1)
