"""A module that takes too long to compile, or too much memory, costs the node and other modules nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from node.agents.wasm import apart, compiling
from node.agents.wasm.apart import APART_BYTES, Compilation
from node.agents.wasm.engine import WasmEngine, binary_of
from node.environment import Environment, ThreadWorkers
from node.errors import InvalidWasm, ResourceLimitExceeded
from tests.node.agents.inline import inline_environment
from tests.node.agents.wasm.guests import House, ask, guest


def slow() -> bytes:
    """A thousand variables, each of which five branches may set: 50 KB that take ten seconds."""
    sets = "".join(f"(if (i32.const 0) (then (local.set {n % 1_000} (i32.const 1))))" for n in range(5_000))
    uses = "".join(f"(drop (local.get {n}))" for n in range(1_000))
    return guest(more=f"(func $slow {'(local i32)' * 1_000} {sets}{uses})")


def bomb(loops: int) -> bytes:
    """Loops within each other, each of which has a place for each of as many variables."""
    counts = "".join(f"(local.set {n} (i32.add (local.get {n}) (i32.const 1)))" for n in range(loops))
    body = f"{'(loop ' * loops}{counts}{'(br_if 0 (i32.const 0)))' * loops}"
    return guest(more=f"(func $bomb {'(local i32)' * loops} {body})")


def large(number: int = 0) -> bytes:
    """An ordinary module that is not small."""
    source = guest(f"(call $answer (i32.const {number}))", data={8_192: "x" * APART_BYTES})
    assert len(binary_of(source)) > APART_BYTES
    return source


def on_threads(cache: Path | None = None) -> House:
    inline = inline_environment()
    workers = ThreadWorkers()
    return House(Environment(inline.clock, inline.randomness, inline.network, workers), cache=cache)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The compilers that are started."""
    found: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*args: object, **more: object) -> subprocess.Popen[bytes]:
        found.append(start(*args, **more))  # type: ignore[call-overload]
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


async def test_a_module_is_compiled_apart_unless_it_is_small_and_once_for_all(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    house = on_threads(tmp_path / "cache")
    assert await ask(await house.load(guest())) == 1
    assert started == []
    several: list[object] = []

    async def one(name: str) -> None:
        several.append(await ask(await house.load(large(7), agent=name)))

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(one, name)
    assert several == [7, 7, 7]
    assert len(started) == 1
    again = House(house.environment, store=house.store, cache=tmp_path / "cache")
    assert await ask(await again.load(large(7))) == 7
    assert len(started) == 1


def test_what_is_compiled_apart_is_what_the_engine_makes() -> None:
    binary, engine = binary_of(large()), WasmEngine()
    assert Compilation(binary).run() == bytes(engine.compile(binary).serialize())


async def test_a_bomb_ends_when_its_time_is_up_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS", 3)
    house, order = on_threads(), list[str]()

    async def explode() -> None:
        with pytest.raises(InvalidWasm, match="more than 3 seconds"):
            await house.load(slow(), agent="bomb")
        order.append("bomb")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(explode)
        await house.environment.clock.sleep(0.3)
        agent = await house.load(large(7))
        order.append("another")
        assert await ask(agent) == 7
    assert order == ["another", "bomb"]
    assert house.runtime.statistics()["compiling"] == 0


async def test_a_bomb_of_memory_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MEMORY_BYTES", 200 * 1024**2)
    monkeypatch.setattr(apart, "MEMORY_PER_BYTE", 0)
    with pytest.raises(InvalidWasm, match=r"more than .* 200 MB of memory"):
        await House().load(bomb(700))


async def test_who_goes_away_ends_the_compiler(started: list[subprocess.Popen[bytes]]) -> None:
    house = on_threads()
    clock = house.environment.clock
    began = clock.now()
    with clock.move_on_after(0.5) as scope:
        await house.load(slow())
    assert scope.cancelled_caught
    assert clock.now() - began < 3
    assert started[0].returncode == -9
    assert await ask(await house.load(large(3))) == 3


async def test_what_is_wrong_with_a_module_is_said_by_its_compiler() -> None:
    damaged = binary_of(large()) + b"\x0b\x01\x07"
    with pytest.raises(InvalidWasm) as caught:
        await House().load(damaged)
    assert "section" in caught.value.why or "unexpected end" in caught.value.why


async def test_a_compiler_that_does_not_start_is_no_fault_of_the_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    with pytest.raises(ResourceLimitExceeded, match="cannot be compiled now"):
        await House().load(large())


def test_the_compiler_is_given_no_secret_and_keeps_out_of_the_way(
    monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    monkeypatch.setenv("CAXTON_SECRET", "hidden")
    told = tmp_path / "told"
    program = tmp_path / "compiling.py"
    source = Path(compiling.__file__).read_text(encoding="utf-8")
    seen = f"    open({str(told)!r}, 'w').write(repr((dict(os.environ), os.nice(0))))\n    return 0\n"
    program.write_text(source.replace("    binary = sys.stdin", f"{seen}    binary = sys.stdin", 1))
    monkeypatch.setattr(compiling, "__file__", str(program))
    Compilation(binary_of(large())).run()
    environment, niceness = eval(told.read_text())
    assert "CAXTON_SECRET" not in environment
    assert niceness >= compiling.NICENESS
