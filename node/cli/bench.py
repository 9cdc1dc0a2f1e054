"""``caxton bench``: how many messages a running cluster answers, and how soon, as its clients see it."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from node.cli.client import Target, find_target
from node.cli.errors import UsageFailed
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table
from node.errors import CaxtonError

if TYPE_CHECKING:
    from node.client import AsyncClient

IN_FLIGHT_LIMIT: Final = 256
"""Most requests at once; a node answers 256 at once."""
SECONDS_LIMIT: Final = 3_600.0
"""Longest run."""
SIZE_LIMIT: Final = 1024**2
"""Largest text in a message, in bytes."""
BATCH: Final = 100
"""Messages accepted in one call, one way."""
REPLY_S: Final = 30.0
"""Longest wait for one reply, in seconds."""
SAMPLE_LIMIT: Final = 100_000
"""Most round trips that are kept; of more every second one, and so on."""
SHOWN_S: Final = 0.5
"""Seconds between two lines of progress."""


def _nothing() -> None:
    """Nobody watches."""


@dataclass(slots=True)
class Measured:
    """What a run has measured so far.

    Args:
        sent: Messages that the node has accepted.
        answered: Requests that were answered by other than a refusal or a failure.
        refused: What went wrong, by error code, or by the performative of the answer.
        missed: Requests of a rate that were due and not sent, because those before took too long.
        seconds: How long it ran.
        on_change: Called with each time that is noted.
    """

    sent: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    seconds: float = 0.0
    on_change: Callable[[], None] = _nothing
    _times: list[float] = field(default_factory=list)
    _step: int = 1
    _seen: int = 0

    def took(self, seconds: float) -> None:
        """A message was accepted, or answered, in that time."""
        self.on_change()
        self._seen += 1
        if self._seen % self._step:
            return
        self._times.append(seconds)
        if len(self._times) > SAMPLE_LIMIT:
            del self._times[::2]
            self._step *= 2

    def percentile_ms(self, share: float) -> float | None:
        """The nearest-rank percentile of the times, in milliseconds; None when there are none."""
        ordered = sorted(self._times)
        if not ordered:
            return None
        return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        return {
            "seconds": round(self.seconds, 3),
            "sent": self.sent,
            "answered": self.answered,
            "refused": dict(self.refused),
            "missed": self.missed,
            "per_s": round(self._seen / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": self.percentile_ms(0.5),
            "p90_ms": self.percentile_ms(0.9),
            "p99_ms": self.percentile_ms(0.99),
            "max_ms": self.percentile_ms(1.0),
        }


@click.command("bench", epilog="For example: caxton bench --capability echo --seconds 10 --in-flight 16")
@click.option("--capability", metavar="NAME", help="Ask whoever offers this capability.")
@click.option("--to", "receiver", metavar="AGENT", help="Ask this agent: name or name@node.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, SECONDS_LIMIT), default=10.0, show_default=True, help="How long."
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, IN_FLIGHT_LIMIT),
    default=8,
    show_default=True,
    help="Requests at once.",
)
@click.option(
    "--rate", type=click.FloatRange(0.1, 100_000), help="Requests a second; as many as go otherwise."
)
@click.option(
    "--size",
    type=click.IntRange(0, SIZE_LIMIT),
    default=200,
    show_default=True,
    help="Bytes of text in each.",
)
@click.option("--one-way", is_flag=True, help="Inform, a hundred at a time, and wait for no answers.")
@node_options
def command(
    capability: str | None,
    receiver: str | None,
    seconds: float,
    in_flight: int,
    rate: float | None,
    size: int,
    one_way: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Load a running cluster with messages, and show rate and round trips as its clients see them.

    A time counts from the moment at which a request is due, so with --rate a stall is not hidden.
    """
    if (capability is None) == (receiver is None):
        raise UsageFailed(
            "exactly one of --capability and --to must be given",
            fix="For example: caxton bench --capability echo.",
        )
    if one_way and rate is not None:
        raise UsageFailed("--one-way sends as many as go", fix="Leave out --rate.")
    target = find_target(where)
    fields = {"capability": capability} if capability else {"receiver": receiver}
    load = _Load(target, fields, "x" * size, in_flight)
    with _progress(load.measured, seconds, quiet=as_json):
        anyio.run(load.run, seconds, rate, one_way, backend="trio")
    found = load.measured.as_json()
    if as_json:
        print_json(found)
    else:
        _show(found, one_way=one_way)
    return 0 if found["sent"] and not found["refused"] and not found["missed"] else 1


class _Load:
    """Clients that send at once.

    Args:
        target: The node.
        fields: To whom.
        text: What each message carries.
        in_flight: Most requests at once.
    """

    def __init__(self, target: Target, fields: dict[str, Any], text: str, in_flight: int) -> None:
        self._target, self._fields, self._text, self._in_flight = target, fields, text, in_flight
        self.measured = Measured()

    async def run(self, seconds: float, rate: float | None, one_way: bool) -> None:
        """Send for so many seconds, then wait for the last answers."""
        from node.client import AsyncClient, Retries  # noqa: PLC0415 - OpenTelemetry: 100 ms of import

        once = Retries(attempts=1)  # what is repeated would be measured as slow
        async with AsyncClient(self._target.api, token=self._target.token, retries=once) as client:
            began = time.perf_counter()
            end = began + seconds
            async with anyio.create_task_group() as tasks:
                for number in range(self._in_flight):
                    if one_way:
                        tasks.start_soon(self._inform, client, end)
                    else:
                        tasks.start_soon(self._ask, client, began, end, rate, number)
            self.measured.seconds = time.perf_counter() - began

    async def _ask(
        self, client: AsyncClient, began: float, end: float, rate: float | None, number: int
    ) -> None:
        """One client: with a rate it has its share of the moments at which a request is due."""
        while True:
            due = time.perf_counter() if rate is None else began + number / rate
            if due >= end:
                return
            if rate is not None and time.perf_counter() >= end:
                self.measured.missed += 1 + int((end - due) * rate / self._in_flight)
                return
            await anyio.sleep(max(0.0, due - time.perf_counter()))
            number += self._in_flight
            try:
                reply = await client.request({"text": self._text}, timeout_s=REPLY_S, **self._fields)
            except CaxtonError as error:
                self.measured.refused[error.code] += 1
                continue
            self.measured.sent += 1
            if reply.get("performative") in ("failure", "not_understood", "refuse"):
                self.measured.refused[str(reply["performative"])] += 1
                continue
            self.measured.answered += 1
            self.measured.took(time.perf_counter() - due)

    async def _inform(self, client: AsyncClient, end: float) -> None:
        message = {"performative": "inform", "content": {"text": self._text}, **self._fields}
        while (began := time.perf_counter()) < end:
            try:
                results = await client.batch([message] * BATCH)
            except CaxtonError as error:
                self.measured.refused[error.code] += BATCH
                continue
            took_s = time.perf_counter() - began
            for result in results:
                if isinstance(result, CaxtonError):
                    self.measured.refused[result.code] += 1
                else:
                    self.measured.sent += 1
                    self.measured.took(took_s)


@contextmanager
def _progress(measured: Measured, seconds: float, *, quiet: bool) -> Iterator[None]:
    """A bar on a terminal while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only terminals need it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[told]}"))
    began, shown = time.perf_counter(), 0.0
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=seconds, told="")

        def tell() -> None:
            nonlocal shown
            elapsed = time.perf_counter() - began
            if elapsed - shown >= SHOWN_S:
                shown = elapsed
                told = f"{measured.sent:,} sent, {sum(measured.refused.values()):,} refused"
                bar.update(task, completed=elapsed, told=told, refresh=True)

        measured.on_change = tell
        yield


def _show(found: dict[str, Any], *, one_way: bool) -> None:
    """The figures for people."""
    done = "accepted" if one_way else "answered"
    count = found["sent"] if one_way else found["answered"]
    times = "one call of a hundred" if one_way else "round trip"
    rows = [
        (done, f"{count:,} in {found['seconds']:.1f} s: {found['per_s']:,.1f}/s"),
        (times, _times(found)),
    ]
    rows += [(f"refused: {code}", f"{number:,}") for code, number in sorted(found["refused"].items())]
    if found["missed"]:
        rows.append(("due and not sent", f"{found['missed']:,}: those before took too long"))
    print_table("Load", ("what", "figure"), rows)


def _times(found: dict[str, Any]) -> str:
    if found["p50_ms"] is None:
        return "-"
    return (
        f"p50 {found['p50_ms']:.1f} ms, p90 {found['p90_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, "
        f"longest {found['max_ms']:.1f} ms"
    )
