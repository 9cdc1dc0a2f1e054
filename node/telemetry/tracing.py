"""Traces: which work caused which, across agents and nodes, as OpenTelemetry spans.

A span's parent is always handed over as W3C ``traceparent`` text, because that is what crosses links,
rests in the outbox and wakes up after a restart; no context variable is involved, and never the global
provider, since several nodes can live in one process. The OpenTelemetry SDK is imported only when
tracing is enabled: start-up time matters on the edge.

Source: W3C Trace Context, Recommendation of 23 November 2021.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from node.environment import Clock, Workers
from node.errors import ConfigInvalid

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import SpanKind, Tracer

AttributeValue = str | int | float | bool

ATTRIBUTE_LIMIT: Final = 32
"""Most attributes of one span."""
TEXT_LIMIT: Final = 500
"""Longest text attribute or error description, in characters."""
QUEUE_LIMIT: Final = 2048
"""Most finished spans that wait for the exporter; more are dropped by it."""
EXPORT_LIMIT_MS: Final = 3000
"""Longest time one export may take, retries included, in milliseconds; what is left is one export."""
EXPORT_EVERY_MS: Final = 1000
"""Time between two exports, in milliseconds."""

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


def clean_traceparent(text: str | None) -> str:
    """A ``traceparent`` from outside as version 00, or the empty string when it is none."""
    found = _TRACEPARENT.fullmatch(text or "")
    if found is None:
        return ""
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or trace == _NO_TRACE or span == _NO_SPAN or (version == "00" and rest is not None):
        return ""
    return f"00-{trace}-{span}-{int(flags, 16) & 1:02x}"


class Span:
    """One piece of work; this class records nothing and only carries its parent's context on.

    Args:
        traceparent: What a child is given as its parent; empty when nothing is traced.
    """

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        """Record nothing."""

    @property
    def trace_id(self) -> str:
        """The trace as 32 hexadecimal digits, for log lines; empty when nothing is traced."""
        return self.traceparent[3:35]

    def set(self, key: str, value: AttributeValue) -> None:
        """Note a fact about the work."""

    def fail(self, error: BaseException | str) -> None:
        """Mark the work as failed; an exception that leaves the span does so by itself."""


class RecordingSpan(Span):
    """A span that is exported when it ends."""

    __slots__ = ("_failed", "_span")

    def __init__(self, span: SdkSpan) -> None:
        super().__init__(_traceparent_of(span))
        self._span = span
        self._failed = False

    def set(self, key: str, value: AttributeValue) -> None:
        """Note a fact about the work; text is cut at :data:`TEXT_LIMIT`."""
        self._span.set_attribute(key, value[:TEXT_LIMIT] if isinstance(value, str) else value)

    def fail(self, error: BaseException | str) -> None:
        """Mark the work as failed; the first reason stays."""
        if self._failed:
            return
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - only when tracing is enabled

        self._failed = True
        if isinstance(error, BaseException):
            self.set("error.type", str(getattr(error, "code", type(error).__name__)))
        self._span.set_status(StatusCode.ERROR, str(error)[:TEXT_LIMIT])


_QUIET: Final = Span()


class Tracing:
    """Starts spans for one node; made by :meth:`create` or :meth:`off`.

    Args:
        provider: The node's own provider, or None when tracing is off.
        clock: Gives the spans their times.
    """

    def __init__(self, provider: TracerProvider | None, clock: Clock | None) -> None:
        self._provider = provider
        self._clock = clock
        self._tracer = None if provider is None else provider.get_tracer("caxton")
        self._started = 0
        self._unsampled = 0
        self._failed = 0

    @classmethod
    def off(cls) -> Tracing:
        """Tracing that costs nothing."""
        return cls(None, None)

    @classmethod
    def create(
        cls,
        *,
        node: str,
        enabled: bool,
        clock: Clock,
        id_source: random.Random,
        service: str = "caxton",
        sample_rate: float = 1.0,
        exporter: SpanExporter | None = None,
        span_processor: SpanProcessor | None = None,
        otlp_endpoint: str = "",
    ) -> Tracing:
        """Build the tracing of one node.

        Args:
            node: Name of the node, on every span.
            enabled: Whether anything is traced at all.
            clock: Gives the spans their times.
            id_source: Draws trace and span ids, so that a replayed run has the same ones.
            service: ``service.name`` of the resource.
            sample_rate: Share of traces recorded that begin here, 0 to 1; a parent's decision holds.
            exporter: Receives each span as it ends, inline (tests, simulation).
            span_processor: The same with a processor of the caller's.
            otlp_endpoint: OTLP/HTTP collector, ``http://host:4318/v1/traces``; batches on a thread.

        Raises:
            ConfigInvalid: the OTLP exporter is asked for but not installed.
        """
        if not enabled:
            return cls.off()
        from opentelemetry.metrics import NoOpMeterProvider  # noqa: PLC0415 - see the module's docstring
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

        from node.telemetry.trace_ids import DrawnIds  # noqa: PLC0415

        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(min(1.0, max(0.0, sample_rate)))),
            resource=Resource({"service.name": service, "service.instance.id": node, "caxton.node": node}),
            shutdown_on_exit=False,
            id_generator=DrawnIds(id_source),
            span_limits=SpanLimits(max_span_attributes=ATTRIBUTE_LIMIT, max_span_attribute_length=TEXT_LIMIT),
            meter_provider=NoOpMeterProvider(),
        )
        if exporter is not None:
            provider.add_span_processor(SimpleSpanProcessor(exporter))
        if span_processor is not None:
            provider.add_span_processor(span_processor)
        if otlp_endpoint:
            provider.add_span_processor(_otlp_processor(otlp_endpoint))
        return cls(provider, clock)

    @property
    def enabled(self) -> bool:
        """Whether spans can be recorded."""
        return self._tracer is not None

    def span(
        self,
        name: str,
        *,
        parent: str = "",
        kind: str = "internal",
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> AbstractContextManager[Span]:
        """Trace the work of a ``with`` block.

        Args:
            name: What is done; few distinct names (``bus.accept``), never with an id in them.
            parent: ``traceparent`` of what caused it; empty starts a new trace.
            kind: ``internal``, ``server``, ``client``, ``producer`` or ``consumer``.
            attributes: Facts known at the start.

        Returns:
            What gives the block its span. When tracing is off it records nothing and carries the parent's
            context on; when the trace is not sampled, its ``traceparent`` says so, and no descendant is
            recorded either.
        """
        if self._tracer is None or self._clock is None:
            return Span(parent) if parent else _QUIET
        return self._recorded(self._tracer, self._clock, name, parent, kind, attributes)

    @contextmanager
    def _recorded(  # noqa: PLR0917 - the arguments of span
        self,
        tracer: Tracer,
        clock: Clock,
        name: str,
        parent: str,
        kind: str,
        attributes: Mapping[str, AttributeValue] | None,
    ) -> Iterator[Span]:
        recorded = tracer.start_span(
            name, context=_context_of(parent), kind=_kind_of(kind), start_time=_nanoseconds(clock)
        )
        if not recorded.is_recording():
            self._unsampled += 1
            yield Span(_traceparent_of(recorded))
            return
        self._started += 1
        span = RecordingSpan(recorded)
        for key, value in (attributes or {}).items():
            span.set(key, value)
        try:
            yield span
        except Exception as error:
            self._failed += 1
            span.fail(error)
            raise
        except BaseException:  # cancelled: neither success nor failure of the work itself
            span.set("caxton.cancelled", True)
            raise
        finally:
            recorded.end(end_time=_nanoseconds(clock))

    async def aclose(self, workers: Workers) -> None:
        """Hand what is left to the exporters and end them, off the event loop and within a bound."""
        if self._provider is not None:
            await workers.run("files", self.shutdown)

    def shutdown(self) -> None:
        """The same, blocking for as long as two exports may take."""
        if self._provider is not None:
            self._provider.shutdown()

    def statistics(self) -> dict[str, int | bool]:
        """Counts since the start."""
        return {
            "enabled": self.enabled,
            "spans_started": self._started,
            "spans_unsampled": self._unsampled,
            "spans_failed": self._failed,
        }


def _otlp_processor(endpoint: str) -> SpanProcessor:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise ConfigInvalid(
            "traces cannot be sent to the configured OTLP endpoint",
            why="the package opentelemetry-exporter-otlp-proto-http is not installed",
            fix="Run `pip install 'caxton[otlp]'`, or remove the endpoint from observability.tracing.",
            details={"field": "observability.tracing"},
        ) from error
    exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_LIMIT_MS / 1000)
    return BatchSpanProcessor(
        exporter,
        max_queue_size=QUEUE_LIMIT,
        max_export_batch_size=QUEUE_LIMIT,
        schedule_delay_millis=EXPORT_EVERY_MS,
        export_timeout_millis=EXPORT_LIMIT_MS,
    )


def _context_of(parent: str) -> Context:
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import (  # noqa: PLC0415
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    clean = clean_traceparent(parent)
    if not clean:
        return Context()
    remote = SpanContext(
        trace_id=int(clean[3:35], 16),
        span_id=int(clean[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(clean[53:55], 16)),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _kind_of(kind: str) -> SpanKind:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    return SpanKind[kind.upper()]


def _traceparent_of(span: SdkSpan) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def _nanoseconds(clock: Clock) -> int:
    return int(clock.wall() * 1_000_000_000)
