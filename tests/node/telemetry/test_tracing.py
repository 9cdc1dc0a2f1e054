from __future__ import annotations

import random
import subprocess
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from node.environment import ThreadWorkers, system_environment
from node.errors import AgentNotFound, ConfigInvalid
from node.telemetry.tracing import TEXT_LIMIT, Tracing, clean_traceparent

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class HandClock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    async def sleep_until(self, deadline: float) -> None:
        self.seconds = deadline

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.CancelScope(relative_deadline=seconds)


def make(node: str = "alpha", *, rate: float = 1.0, seed: int = 1) -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing = Tracing.create(
        node=node,
        enabled=True,
        clock=HandClock(),
        id_source=random.Random(seed),
        sample_rate=rate,
        exporter=exporter,
    )
    return tracing, exporter


def test_one_trace_crosses_two_nodes_that_share_a_process() -> None:
    alpha, alpha_spans = make("alpha", seed=1)
    beta, beta_spans = make("beta", seed=2)
    with (
        alpha.span("POST /api/v1/messages", kind="server") as first,
        alpha.span("bus.accept", parent=first.traceparent) as second,
    ):
        pass
    with beta.span("agent.handle", parent=second.traceparent, kind="consumer"):
        pass
    [accept, post], [handle] = alpha_spans.get_finished_spans(), beta_spans.get_finished_spans()
    assert {s.context.trace_id for s in (accept, post, handle)} == {post.context.trace_id}
    assert handle.parent is not None
    assert handle.parent.span_id == accept.context.span_id
    assert handle.resource.attributes["caxton.node"] == "beta"
    assert post.kind is SpanKind.SERVER


def test_times_come_from_the_nodes_clock() -> None:
    exporter, clock = InMemorySpanExporter(), HandClock()
    tracing = Tracing.create(
        node="n", enabled=True, clock=clock, id_source=random.Random(0), exporter=exporter
    )
    with tracing.span("work"):
        clock.seconds += 2.5
    [span] = exporter.get_finished_spans()
    assert (span.start_time, span.end_time) == (1_700_000_000 * 10**9, 1_700_000_002_500_000_000)


def test_the_same_seed_gives_the_same_ids() -> None:
    found = []
    for _ in range(2):
        tracing, _ = make(seed=7)
        with tracing.span("a") as a, tracing.span("b", parent=a.traceparent) as b:
            found.append((a.traceparent, b.traceparent))
    assert found[0] == found[1]


def test_the_global_provider_stays_untouched() -> None:
    before = trace.get_tracer_provider()
    make()
    assert trace.get_tracer_provider() is before


def test_off_is_one_shared_span_that_only_carries_the_parent_on() -> None:
    off = Tracing.off()
    with off.span("a", attributes={"k": 1}) as a, off.span("b") as b:
        a.set("x", 1)
        a.fail("no")
    assert a is b
    assert a.traceparent == ""
    with off.span("c", parent=PARENT) as c:
        assert c.traceparent == PARENT


def test_what_is_not_sampled_is_not_recorded_further_down_either() -> None:
    none, none_spans = make(rate=0.0)
    every, every_spans = make(rate=1.0)
    with none.span("root") as root:
        assert root.traceparent.endswith("-00")
    with every.span("child", parent=root.traceparent) as child:
        assert child.trace_id == root.trace_id
    with every.span("child", parent=UNSAMPLED):
        pass
    assert none_spans.get_finished_spans() == every_spans.get_finished_spans() == ()
    with none.span("continued", parent=PARENT):
        pass
    assert len(none_spans.get_finished_spans()) == 1


def test_an_error_marks_the_span_and_goes_on() -> None:
    tracing, spans = make()
    with pytest.raises(AgentNotFound), tracing.span("deploy"):
        raise AgentNotFound("x" * 2000)
    [span] = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert len(span.status.description or "") == TEXT_LIMIT
    assert (span.attributes or {})["error.type"] == "AGENT_NOT_FOUND"
    assert tracing.statistics()["spans_failed"] == 1


async def test_a_cancelled_span_is_no_failure() -> None:
    tracing, spans = make()
    with trio.CancelScope() as scope:
        scope.cancel()
        with tracing.span("wait"):
            await trio.lowlevel.checkpoint()
    [span] = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["caxton.cancelled"] is True


async def test_closing_flushes_off_the_loop() -> None:
    tracing, spans = make()
    with tracing.span("work"):
        pass
    await tracing.aclose(ThreadWorkers())
    await Tracing.off().aclose(ThreadWorkers())
    assert len(spans.get_finished_spans()) == 1


@given(st.one_of(st.none(), st.text(), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*")))
def test_a_traceparent_from_outside_is_cleaned_or_dropped(text: str | None) -> None:
    clean = clean_traceparent(text)
    assert clean == "" or clean_traceparent(clean) == clean
    with make()[0].span("x", parent=text or ""):
        pass


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (PARENT, PARENT),
        (PARENT.replace("00-", "01-", 1) + "-more", PARENT),
        (PARENT + "-more", ""),
        ("ff" + PARENT[2:], ""),
        (PARENT.upper(), ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{'1' * 32}-{'0' * 16}-01", ""),
    ],
)
def test_traceparent_rules(text: str, clean: str) -> None:
    assert clean_traceparent(text) == clean


async def test_an_unreachable_collector_neither_blocks_nor_breaks_the_node() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    tracing = Tracing.create(
        node="n",
        enabled=True,
        clock=HandClock(),
        id_source=random.Random(0),
        otlp_endpoint="http://127.0.0.1:1/v1/traces",
    )
    with tracing.span("work"):
        pass
    with system_environment().clock.move_on_after(10) as limit:
        await tracing.aclose(ThreadWorkers())
    assert not limit.cancelled_caught


def test_a_missing_exporter_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigInvalid, match=r"caxton\[otlp\]"):
        Tracing.create(
            node="n", enabled=True, clock=HandClock(), id_source=random.Random(0), otlp_endpoint="http://c"
        )


def test_the_sdk_is_not_imported_while_tracing_is_off() -> None:
    program = (
        "import sys; from node.telemetry.tracing import Tracing\n"
        "with Tracing.off().span('x'): pass\n"
        "sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
