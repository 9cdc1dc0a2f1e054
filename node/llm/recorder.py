"""``record`` and ``replay``: one writes down what another provider answers, the other answers from that."""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

import trio

from node.environment import Workers
from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, Delta, OnDelta, Provider
from node.llm.recording import (
    RECORDING_LIMIT_BYTES,
    Recorded,
    header_line,
    key_of,
    line_of,
    read_recording,
)

_log = logging.getLogger(__name__)


class RecordProvider:
    """Another provider, whose answers and failures are written down.

    A recording that cannot be written, or has become too large, does not stop the work: it is said in the
    log and counted.

    Args:
        name: The name it is configured by.
        inner: Is asked.
        path: The recording; what is in it already stays.
        workers: Write.
        secrets: What must not be written.
    """

    def __init__(
        self, name: str, inner: Provider, path: Path, workers: Workers, secrets: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self._inner = inner
        self._path = path
        self._workers = workers
        self._secrets = secrets
        self._lock = trio.Lock()
        self._written = self._dropped = 0

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Ask the other one, and write down what it says.

        Raises:
            ProviderFailed: the other one did; that is written down, too, if it says how it failed.
        """
        pieces: list[str] = []

        def note(delta: Delta) -> None:
            if delta.anew:
                pieces.clear()
            pieces.append(delta.text)
            if on_delta is not None:
                on_delta(delta)

        key = key_of(request)
        shown = note if on_delta is not None else None
        try:
            completion = await self._inner.complete(request, on_delta=shown)
        except RequestFailed as error:
            await self._write(request, Recorded(key, failure=error, deltas=tuple(pieces)))
            raise
        await self._write(request, Recorded(key, completion, deltas=tuple(pieces)))
        return completion

    def statistics(self) -> dict[str, Any]:
        """How much has been written, and what could not be."""
        return {"written": self._written, "dropped": self._dropped, "bytes_limit": RECORDING_LIMIT_BYTES}

    async def _write(self, request: CompletionRequest, recorded: Recorded) -> None:
        line = line_of(request, recorded, self._secrets)
        async with self._lock:  # one line after the other
            try:
                fits = await self._workers.run("files", _append, self._path, line)
            except OSError as error:
                _log.warning("the recording %s cannot be written: %s", self._path, error)
                fits = False
        if fits:
            self._written += 1
            return
        if not self._dropped:
            _log.warning("the recording %s takes no more; what follows is not recorded", self._path)
        self._dropped += 1


class ReplayProvider:
    """Answers from a recording, and from nothing else.

    A request that was recorded several times is answered in that order, each answer once.

    Args:
        name: The name it is configured by.
        data: The recording.

    Raises:
        ValidationFailed: it is none.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._answers: dict[str, deque[Recorded]] = {}
        self._recorded: dict[str, int] = {}
        self._replayed = self._missed = 0
        for recorded in read_recording(data):
            self._answers.setdefault(recorded.key, deque()).append(recorded)
            self._recorded[recorded.key] = self._recorded.get(recorded.key, 0) + 1

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Give the answer that was recorded, or fail as was recorded.

        Raises:
            RequestFailed: as recorded; or there is no answer to this request, or none left.
        """
        await trio.lowlevel.checkpoint()
        key = key_of(request)
        left = self._answers.get(key)
        if not left:
            self._missed += 1
            raise self._unknown(request, key)
        recorded = left.popleft()
        self._replayed += 1
        if on_delta is not None:
            completion = recorded.completion
            whole = (completion.text,) if completion is not None and completion.text else ()
            for piece in recorded.deltas or whole:
                on_delta(Delta(piece))
        if recorded.failure is not None:
            raise recorded.failure
        if recorded.completion is None:
            raise self._unknown(request, key)
        return recorded.completion

    def statistics(self) -> dict[str, Any]:
        """How much is recorded, and what was asked for."""
        return {
            "recorded": sum(self._recorded.values()),
            "replayed": self._replayed,
            "left": sum(map(len, self._answers.values())),
            "missed": self._missed,
        }

    def _unknown(self, request: CompletionRequest, key: str) -> RequestFailed:
        times = self._recorded.get(key, 0)
        subject = request.subject
        what = f"turn {request.turn} of a {subject.performative} to {subject.capability or 'the agent'}"
        why = f"{what} was recorded {times} times, all are given" if times else f"{what} is not in it"
        return RequestFailed(
            "not_recorded",
            why=why,
            fix="Record it anew: prompts, tools, settings and tool results must be those of the recording.",
            details={"provider": self.name, "key": key, "recorded": times},
        )


def _append(path: Path, line: bytes) -> bool:
    """Append a line to a recording, which is begun if there is none; says whether there was room for it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            line = header_line() + line
        if size + len(line) > RECORDING_LIMIT_BYTES:
            return False
        file.write(line)
    return True
