"""WASI preview 1 gives a core module nothing of its own: what there is follows the grants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from node.agents.wasm import Grant
from node.agents.wasm.host import CONSOLE_LINE_LIMIT
from node.agents.wasm.interface import PREVIEW1, PREVIEW1_IMPORTS
from node.agents.wasm.preview1 import PREVIEW1_FUNCTIONS, VECTORS_LIMIT
from node.errors import InvalidWasm
from tests.node.agents.wasm.guests import House, answers, ask, guest

BAD_FILE, INVALID, NOT_HERE = 8, 28, 52
AT = "(i32.const 3000)"
SHOW = f"(call $answer (i32.load {AT}))"


def wasi(body: str, *names: str, data: dict[int, str] | None = None, more: str = "") -> bytes:
    """A guest that imports ``names`` of WASI."""
    functions = "".join(_import(name) for name in names)
    return guest(body, data=data, more=more).replace(b"(module", f"(module {functions}".encode(), 1)


def _import(name: str) -> str:
    parameters, results = PREVIEW1_IMPORTS[name]
    shape = "".join(f" (param {p})" for p in parameters) + "".join(f" (result {r})" for r in results)
    return f'(import "{PREVIEW1}" "{name}" (func ${name}{shape}))'


async def told(source: bytes, grants: Iterable[Grant] = (), **policy: Any) -> tuple[Any, list[str]]:
    """What a guest answers, and its log."""
    house = House()
    answer = await ask(await house.load(source, grants, **policy))
    return answer, house.lines()


def vectors(*texts: str) -> dict[int, str]:
    """Pieces of a write, as data: their table is at 2000, they are at 2100."""
    at, table, data = 2100, b"", {}
    for text in texts:
        table += at.to_bytes(4, "little") + len(text.encode()).to_bytes(4, "little")
        data[at] = text
        at += max(1, len(text.encode()))
    return {2000: table.decode("latin-1"), **data}


def test_every_import_that_is_taken_is_answered() -> None:
    assert sorted(PREVIEW1_IMPORTS) == sorted(PREVIEW1_FUNCTIONS)


@pytest.mark.parametrize("name", ["sock_accept", "path_unlink_file"])
async def test_what_is_not_answered_is_refused_by_name(name: str) -> None:
    source = guest().replace(b"(module", f'(module (import "{PREVIEW1}" "{name}" (func))'.encode(), 1)
    with pytest.raises(InvalidWasm) as caught:
        await House().load(source)
    assert f"{PREVIEW1}.{name} (unknown)" in caught.value.why


async def test_an_import_of_another_type_is_refused() -> None:
    source = guest().replace(b"(module", f'(module (import "{PREVIEW1}" "fd_write" (func))'.encode(), 1)
    with pytest.raises(InvalidWasm, match="cannot be an agent") as caught:
        await House().load(source)
    assert "another signature" in caught.value.why


@pytest.mark.parametrize("name", ["args", "environ"])
async def test_there_are_no_arguments_and_no_environment(name: str) -> None:
    places = f"{AT} (i32.const 3008)"
    body = f"""(i64.store {AT} (i64.const -1)) (drop (call ${name}_sizes_get {places}))
      (drop (call ${name}_get {places})) {SHOW}"""
    assert await answers(wasi(body, f"{name}_sizes_get", f"{name}_get"), grants=()) == [0]


@pytest.mark.parametrize(
    ("name", "words", "answer"),
    [
        ("fd_prestat_get", "(i32.const 3) (i32.const 3000)", BAD_FILE),
        ("fd_read", "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 3000)", BAD_FILE),
        ("fd_write", "(i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3000)", BAD_FILE),
        ("fd_close", "(i32.const 1)", BAD_FILE),
        ("fd_fdstat_get", "(i32.const 0) (i32.const 3000)", BAD_FILE),
        (
            "path_open",
            " ".join(["(i32.const 0)"] * 5 + ["(i64.const 0)"] * 2 + ["(i32.const 0)"] * 2),
            NOT_HERE,
        ),
        ("clock_time_get", "(i32.const 9) (i64.const 0) (i32.const 3000)", INVALID),
        ("poll_oneoff", "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)", INVALID),
    ],
)
async def test_there_are_no_files(name: str, words: str, answer: int) -> None:
    assert await answers(wasi(f"(call $answer (call ${name} {words}))", name), grants=()) == [answer]


async def test_a_standard_stream_can_be_written_to() -> None:
    body = f"(drop (call $fd_fdstat_get (i32.const 1) {AT})) (call $answer (i32.load8_u {AT}))"
    assert await answers(wasi(body, "fd_fdstat_get"), grants=()) == [2]


async def test_lines_of_the_standard_streams_go_to_the_log_whole() -> None:
    write = "(drop (call $fd_write (i32.const {0}) (i32.const 2000) (i32.const 3) (i32.const 3000)))"
    body = write.format(1) + write.format(2) + SHOW
    house = House()
    agent = await house.load(wasi(body, "fd_write", data=vectors("one\ntw", "o\nth", "ree")), ())
    assert await ask(agent) == len("one\ntwo\nthree")
    assert house.lines("error") == ["one", "two", "three"]
    assert [house.lines().count(line) for line in ("one", "two", "three")] == [2, 2, 2]


async def test_a_line_without_an_end_is_kept_up_to_its_limit() -> None:
    body = f"""(i32.store (i32.const 2000) (i32.const 8192)) (i32.store (i32.const 2004) (i32.const 60000))
      (drop (call $fd_write (i32.const 1) (i32.const 2000) (i32.const 1) {AT}))
      (drop (call $fd_write (i32.const 1) (i32.const 2000) (i32.const 1) {AT})) {SHOW}"""
    answer, lines = await told(wasi(body, "fd_write"))
    assert answer == 60_000
    assert max(map(len, lines)) == CONSOLE_LINE_LIMIT


@pytest.mark.parametrize(
    ("count", "length", "outcome"),
    [(VECTORS_LIMIT + 1, 0, INVALID), (1, 70_000, "output_size"), (1, -1, "output_size")],
)
async def test_a_write_is_bounded(count: int, length: int, outcome: int | str) -> None:
    body = f"""(i32.store (i32.const 2004) (i32.const {length}))
      (call $answer (call $fd_write (i32.const 1) (i32.const 2000) (i32.const {count}) {AT}))"""
    answer, _ = await told(wasi(body, "fd_write"))
    assert answer == outcome or answer[0] == outcome


@pytest.mark.parametrize("clock", [0, 1])
async def test_the_clock_follows_its_grant(clock: int) -> None:
    body = f"""(drop (call $clock_time_get (i32.const {clock}) (i64.const 0) {AT}))
      (call $answer (i32.wrap_i64 (i64.div_u (i64.load {AT}) (i64.const 1000000000000))))"""
    source = wasi(body, "clock_time_get")
    [granted], [refused] = await answers(source, grants=[Grant.CLOCK]), await answers(source, grants=())
    assert granted > 0
    assert refused == 0


async def test_the_monotonic_clock_is_never_zero() -> None:
    body = f"(drop (call $clock_time_get (i32.const 1) (i64.const 0) {AT})) {SHOW}"
    assert await answers(wasi(body, "clock_time_get"), grants=()) == [1]


async def test_chance_follows_its_grant_and_in_deterministic_mode_the_message() -> None:
    body = f"""(drop (call $random_get {AT} (i32.const 4)))
      (call $answer (i32.and (i32.load {AT}) (i32.const 0xffffff)))"""
    source = wasi(body, "random_get")
    assert await answers(source, grants=()) == [0]
    first, second = await answers(source, 1, 2, grants=[Grant.RANDOM])
    assert first != second
    fixed = [
        await answers(source, "same", grants=[Grant.RANDOM], deterministic=True, fresh=True) for _ in "ab"
    ]
    assert fixed[0] == fixed[1] != [0]


async def test_more_chance_than_the_limit_ends_the_call() -> None:
    body = f"(call $answer (call $random_get {AT} (i32.const 65537)))"
    [(limit, _)] = await answers(wasi(body, "random_get"))
    assert limit == "output_size"


WAIT = f"""(i64.store (i32.const 2000) (i64.const 77)) (i32.store8 (i32.const 2008) (i32.const {{kind}}))
  (i64.store (i32.const 2024) (i64.const {{wait_ns}}))
  (call $answer (i32.add (i32.mul (i32.const 1000)
      (call $poll_oneoff (i32.const 2000) {AT} (i32.const 1) (i32.const 3100))) (i32.load {AT})))"""


async def test_a_wait_for_a_clock_is_over_at_once() -> None:
    source = wasi(WAIT.format(kind=0, wait_ns=5_000_000), "poll_oneoff")
    assert await answers(source, grants=[Grant.CLOCK]) == [77]
    assert await answers(source, grants=()) == [77]


async def test_a_wait_longer_than_the_call_has_ends_it() -> None:
    source = wasi(WAIT.format(kind=0, wait_ns=3_600_000_000_000), "poll_oneoff")
    [(limit, _)] = await answers(source, grants=[Grant.CLOCK])
    assert limit == "wall_clock"


async def test_a_wait_for_a_file_is_refused() -> None:
    assert await answers(wasi(WAIT.format(kind=1, wait_ns=0), "poll_oneoff")) == [NOT_HERE * 1000]


async def test_leaving_the_process_ends_the_call_and_says_where() -> None:
    more = "(func $give_up (call $proc_exit (i32.const 3)))"
    answer, _ = await told(wasi("(call $give_up)", "proc_exit", more=more))
    assert answer == ("exit", "it left with the exit status 3 in give_up")


async def test_a_reactor_is_initialised_before_anything_else() -> None:
    more = """(global $ready (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $ready (i32.const 7)))"""
    source = guest(
        "(call $answer (global.get $ready))", more=more, init="(i32.sub (global.get $ready) (i32.const 7))"
    )
    assert await answers(source) == [7]


async def test_every_call_counts() -> None:
    source = wasi("(loop $l (drop (call $sched_yield)) (br $l))", "sched_yield")
    [(limit, _)] = await answers(source)
    assert limit == "host_calls"
