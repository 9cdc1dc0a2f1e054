"""A compiled module is loaded only if this node wrote it; the directory stays private and bounded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from node.agents.wasm import Grant, WasmPolicy, compiled
from node.agents.wasm.compiled import CompiledModules, artifact_name
from node.agents.wasm.compiling import CONFIGURATION
from node.agents.wasm.engine import CHECKED, VERSION, WasmEngine, binary_of
from tests.node.agents.rooms import MemoryStore
from tests.node.agents.wasm.guests import House, ask, guest

KEY = bytes(32)
NAME = artifact_name("module", "50.0.0", "fuel")


def load(modules: CompiledModules, name: str) -> bytes | None:
    return modules.load(name, lambda path: path.read_bytes()[:-32])


def found(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_what_was_saved_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    modules = CompiledModules(tmp_path / "cache", KEY)
    assert load(modules, NAME) is None
    modules.save(NAME, b"code")
    assert load(modules, NAME) == b"code"
    assert load(modules, artifact_name("module", "51.0.0", "fuel")) is None
    [path] = found(tmp_path / "cache")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    counted = modules.statistics()
    assert (counted["hits"], counted["misses"], counted["bytes"]) == (1, 2, path.stat().st_size)


def test_names_tell_modules_versions_and_configurations_apart() -> None:
    names = {artifact_name(b, v, c) for b in ("a", "b") for v in ("1", "2") for c in ("x", "y")}
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


def verified(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that has been verified, and sealed."""
    monkeypatch.setattr(compiled, "_RACY_NS", 0)
    modules = CompiledModules(directory, KEY)
    modules.save(NAME, b"code")
    assert load(modules, NAME) == b"code"
    assert modules.statistics()["sealed"] == 0
    path = directory / f"{NAME}.compiled"
    assert path.with_suffix(".seal").stat().st_mode & 0o777 == 0o600
    return path


def until_later(path: Path, change: Callable[[Path], None]) -> None:
    """Change a file as often as it takes until the clock of its file system has moved on."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        change(path)


def test_what_has_been_verified_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified(tmp_path, monkeypatch)
    monkeypatch.delattr(CompiledModules, "_mac")
    modules = CompiledModules(tmp_path, KEY)
    assert load(modules, NAME) == b"code"
    assert modules.statistics()["sealed"] == 1


def test_a_file_that_was_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    modules = CompiledModules(tmp_path, KEY)
    modules.save(NAME, b"code")
    assert [load(modules, NAME), load(modules, NAME)] == [b"code", b"code"]
    assert modules.statistics()["sealed"] == 0
    assert not (tmp_path / f"{NAME}.seal").exists()


@pytest.mark.parametrize("damage", [change_code, change_mac, cut, empty])
def test_a_seal_does_not_hide_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    path = verified(tmp_path, monkeypatch)
    whole = path.read_bytes()
    times = path.stat()

    def change(path: Path) -> None:
        path.write_bytes(whole)
        damage(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    until_later(path, change)
    modules = CompiledModules(tmp_path, KEY)
    assert load(modules, NAME) is None
    assert (modules.statistics()["sealed"], modules.statistics()["refused"]) == (0, 1)
    assert found(tmp_path) == []


def test_a_seal_is_of_one_file_of_one_name_and_of_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = verified(tmp_path, monkeypatch)
    seal = path.with_suffix(".seal")
    copy, other = path.with_name("copy"), artifact_name("another")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)  # good, but not the file that was verified
    modules = CompiledModules(tmp_path, KEY)
    assert load(modules, NAME) == b"code"
    assert modules.statistics()["sealed"] == 0
    assert load(CompiledModules(tmp_path, bytes(31) + b"1"), NAME) is None
    monkeypatch.setattr(compiled, "_identity", lambda found: "the same")  # as if a new name left no trace
    path = verified(tmp_path, monkeypatch)
    path.rename(path.with_name(f"{other}.compiled"))
    seal.rename(seal.with_name(f"{other}.seal"))
    assert load(CompiledModules(tmp_path, KEY), other) is None


def test_a_forged_seal_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = verified(tmp_path, monkeypatch)
    seal = path.with_suffix(".seal")
    for forged in (b"", bytes(32), seal.read_bytes()[:-1]):
        seal.write_bytes(forged)
        modules = CompiledModules(tmp_path, KEY)
        assert load(modules, NAME) == b"code"
        assert modules.statistics()["sealed"] == 0


def test_a_seal_goes_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = verified(tmp_path, monkeypatch)
    path.unlink()
    modules = CompiledModules(tmp_path, KEY)
    modules.save(artifact_name("another"), b"code")
    assert [file.suffix for file in found(tmp_path)] == [".compiled"]
    assert modules.statistics()["evicted"] == 0


def test_the_file_of_another_node_or_of_another_name_is_refused(tmp_path: Path) -> None:
    CompiledModules(tmp_path, bytes(31) + b"1").save(NAME, b"code")
    modules = CompiledModules(tmp_path, KEY)
    assert load(modules, NAME) is None
    modules.save(NAME, b"code")
    other = artifact_name("another")
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


def test_what_was_used_longest_ago_leaves_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_RACY_NS", 0)
    modules = CompiledModules(tmp_path, KEY, limit_bytes=3 * (1000 + 32))
    names = [artifact_name(str(n)) for n in range(4)]
    for at, name in enumerate(names[:3]):
        modules.save(name, bytes(1000))
        os.utime(tmp_path / f"{name}.compiled", (at, at))
    assert load(modules, names[0]) is not None
    modules.save(names[3], bytes(1000))
    assert [load(modules, name) is not None for name in names] == [True, False, True, True]
    modules.save(artifact_name("huge"), bytes(4000))
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


async def test_the_hash_that_is_known_is_that_of_a_binary_only(tmp_path: Path) -> None:
    house = House(cache=tmp_path)
    policy = WasmPolicy(frozenset(Grant))
    binary = binary_of(guest())
    for source, sha256 in ((binary, "known"), (guest(), "of the text"), (binary, "")):
        await house.runtime.load(source, agent="a", journal=house.journal, policy=policy, sha256=sha256)
    names = {path.stem for path in found(tmp_path)}
    hashes = ("known", hashlib.sha256(binary).hexdigest())
    assert names == {artifact_name(each, VERSION, CONFIGURATION, CHECKED) for each in hashes}


async def test_modules_that_are_the_same_are_compiled_once() -> None:
    house = House()
    first = await house.load(guest(), agent="first")
    second = await house.load(guest(), agent="second")
    assert house.runtime.statistics()["modules"] == 1
    assert (await ask(first), await ask(second)) == (1, 1)
