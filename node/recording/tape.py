"""Writes down what a node's cores are given, what they ask meanwhile, and what comes out of them.

A core is an object that does no I/O: given the same inputs and the same answers it does the same. Each of its
inputs is a **step**: the verb, its arguments, the **draws** (what the core asked of its surroundings: a
signature, the time, who offers a capability), and the outputs, with their hash. A verb that is called inside
another one is part of it.

Recording never harms the node: at the limit, or when the disk refuses, it stops with one line in the log,
and the file stays what it was up to there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from node.environment import Clock
from node.recording.format import (
    MAX_RECORD_BYTES,
    Core,
    End,
    Header,
    Record,
    Step,
    create,
    header_bytes,
    record_bytes,
)
from node.recording.values import pack, plain

log = logging.getLogger(__name__)

T = TypeVar("T")

DIGEST_BYTES: Final = 16
DEFAULT_LIMIT_BYTES: Final = 256 * 1024**2
"""Longest recording, unless another limit is set."""
MIN_LIMIT_BYTES: Final = 65_536
MAX_OUTPUT_BYTES: Final = 1024**2
"""Outputs of one step that are kept to be shown; of longer ones only the hash is."""
FLUSH_S: Final = 1.0
"""Longest time that an input waits in memory for the ones after it."""
RESERVED_BYTES: Final = 1_024
"""Kept free below the limit for the last record, which says why recording ended."""


class Tape(Protocol):
    """What a core's surroundings tell and are told; recorded here, answered from the record on replay."""

    def draw(self, kind: str, question: bytes, ask: Callable[[], T]) -> T:
        """Return what the surroundings answer to a question.

        Args:
            kind: Of the question.
            question: What tells it from others of its kind, short.
            ask: Asks the surroundings.
        """

    def emit(self, kind: str, *values: object) -> None:
        """Note something that comes out of the core."""


class NoTape:
    """For cores that are not recorded: asks, and notes nothing."""

    def draw(self, kind: str, question: bytes, ask: Callable[[], T]) -> T:
        """Ask the surroundings."""
        del kind, question
        return ask()

    def emit(self, kind: str, *values: object) -> None:
        """Note nothing."""


def digest_of(outputs: bytes) -> bytes:
    """The hash by which outputs are compared."""
    return blake2b(outputs, digest_size=DIGEST_BYTES).digest()


def returned(value: object, outputs: list[Any]) -> None:
    """Add what a verb returned to its outputs; nothing says nothing."""
    if value is not None:
        outputs.append(["returned", plain(value)])


def raised(error: Exception, outputs: list[Any]) -> None:
    """Add what a verb raised to its outputs."""
    outputs.append(["raised", type(error).__name__, str(error)])


class Recorder:
    """One recording that is being written.

    Args:
        path: The new file.
        header: Whose it is.
        now: Monotonic seconds.
        limit_bytes: Longest file.

    Raises:
        RecordingUnwritable: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        now: Callable[[], float],
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        self.path = path
        self._now = now
        self._limit = max(limit_bytes, MIN_LIMIT_BYTES)
        self._cores = self._steps = self._bytes = 0
        self._flushed_at = now()
        self._file: BinaryIO | None = create(path)
        self._put(header_bytes(header))

    @property
    def closed(self) -> bool:
        """Whether nothing is recorded any more."""
        return self._file is None

    def core(self, name: str, version: int) -> CoreTape:
        """The tape of one more core.

        Args:
            name: Of the core.
            version: Of its verbs and draws, as the replay knows them.
        """
        number = self._cores
        self._cores += 1
        self._write(Core(number, name, version))
        return CoreTape(self, number)

    def step(self, step: Step) -> None:
        """Write one step."""
        self._steps += 1
        self._write(step)

    def stop(self, reason: str) -> None:
        """End the recording; the node goes on."""
        if self._file is None:
            return
        self._put(record_bytes(End(reason[:200])))
        self._close()
        log.info("%s: %d inputs recorded in %d bytes: %s", self.path, self._steps, self._bytes, reason)

    def statistics(self) -> dict[str, int]:
        """Inputs and bytes that were recorded, and the limit."""
        return {
            "recording": int(self._file is not None),
            "recorded_inputs": self._steps,
            "recorded_bytes": self._bytes,
            "recorded_bytes_limit": self._limit,
        }

    def _write(self, record: Record) -> None:
        if self._file is None:
            return
        data = record_bytes(record)
        if len(data) > MAX_RECORD_BYTES or self._bytes + len(data) > self._limit - RESERVED_BYTES:
            self.stop(f"the limit of {self._limit} bytes was reached")
            return
        self._put(data)

    def _put(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(data)
            now = self._now()
            if now - self._flushed_at >= FLUSH_S:
                self._flushed_at = now
                self._file.flush()
        except OSError as error:
            self._lost(error)
            return
        self._bytes += len(data)

    def _close(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what is buffered will not get there either
                file.close()
        log.warning("%s: recording has ended, the disk refuses it: %s", self.path, error.strerror or error)


@dataclass(frozen=True, slots=True)
class RecordTo:
    """A recording that was asked for.

    Args:
        path: The file, which must not exist.
        limit_bytes: How long it may become.
    """

    path: Path
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    def begin(self, node: str, version: str, clock: Clock) -> Recorder:
        """Make the file.

        Args:
            node: Whose cores are recorded.
            version: Of this software.
            clock: The node's.

        Raises:
            RecordingUnwritable: it exists, or cannot be made.
        """
        header = Header.of_this(node, version, clock.wall())
        recorder = Recorder(self.path, header, clock.now, limit_bytes=self.limit_bytes)
        log.info("what the cores are given is recorded in %s, at most %d bytes", self.path, self.limit_bytes)
        return recorder


class CoreTape:
    """Notes what one core is given and gives.

    Args:
        recorder: Where it goes.
        number: The core's.

    Attributes:
        finish: Called at the end of each step with its outputs, to add those that the verb left behind.
    """

    def __init__(self, recorder: Recorder, number: int) -> None:
        self.finish: Callable[[list[Any]], None] = lambda _outputs: None
        self._recorder = recorder
        self._number = number
        self._inside = False
        self._muted = False
        self._draws: list[tuple[str, bytes, Any]] = []
        self._outputs: list[Any] = []

    def step(
        self,
        verb: str,
        arguments: Callable[[], object],
        call: Callable[[], T],
        shown: Callable[[T], object] = lambda result: result,
    ) -> T:
        """Call a verb, and record it unless it is part of another one.

        Args:
            verb: Its name.
            arguments: Says what it is given; asked before the call.
            call: Calls it.
            shown: What of its result is compared.
        """
        if self._inside or self._recorder.closed:
            return call()
        given = pack(arguments())
        self._inside, self._draws, self._outputs = True, [], []
        try:
            result = call()
        except Exception as error:
            raised(error, self._outputs)
            raise
        else:
            returned(shown(result), self._outputs)
            return result
        finally:
            try:
                self.finish(self._outputs)
            finally:
                self._inside = False
            self._record(verb, given)

    def draw(self, kind: str, question: bytes, ask: Callable[[], T]) -> T:
        """Ask the surroundings, and note the answer if that is part of a step."""
        answer = ask()
        if self._inside and not self._muted:
            self._draws.append((kind, question, plain(answer)))
        return answer

    def emit(self, kind: str, *values: object) -> None:
        """Note something that comes out of the core."""
        if self._inside:
            self._outputs.append([kind, *map(plain, values)])

    @property
    def listening(self) -> bool:
        """Whether draws are noted now."""
        return self._inside and not self._muted

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Note no draws inside: what happens there is one answer, whatever it asks."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def watch(
        self, target: object, verbs: Mapping[str, str], context: Callable[[], object] = lambda: None
    ) -> None:
        """Record every call of some methods of an object from now on.

        Args:
            target: The object.
            verbs: Under which name each method is recorded.
            context: What else the core sees at that moment.
        """
        for method, verb in verbs.items():
            setattr(target, method, self._watched(verb, getattr(target, method), context))

    def _watched(
        self, verb: str, method: Callable[..., Any], context: Callable[[], object]
    ) -> Callable[..., Any]:
        def watched(*args: Any, **named: Any) -> Any:
            if self._inside:
                return method(*args, **named)
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            return self.step(verb, lambda: [context(), args, named], lambda: method(*args, **named))

        return watched

    def _record(self, verb: str, given: bytes) -> None:
        outputs = pack(self._outputs)
        kept = outputs if len(outputs) <= MAX_OUTPUT_BYTES else b""
        self._recorder.step(Step(self._number, verb, given, tuple(self._draws), digest_of(outputs), kept))
