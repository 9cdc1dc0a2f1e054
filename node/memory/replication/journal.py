"""What one job of this node's writer says to the other nodes, in the transaction that changes the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import apsw

from node.memory.replication.head import LOG_ID_BYTES
from node.memory.replication.operations import Operation, encode, facts_of
from node.memory.replication.oplog import (
    Admitted,
    Log,
    OperationLogs,
    keep_meta,
    read_meta,
)
from swim.hlc import HybridClock

_LOG: Final = "operation_log"
_CLOCK: Final = "operation_clock"


@dataclass(slots=True)
class Journal:
    """One job's operations.

    Args:
        connection: The writer's.
        node: This node.
        clock: Its stamps, of all jobs; what is on disk is taken up.
        wall: Unix seconds.
        token: Makes the id of a new log.
    """

    connection: apsw.Connection
    node: str
    clock: HybridClock
    wall: float
    token: Callable[[int], bytes]
    logs: OperationLogs = field(init=False)
    _log: Log | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.logs = OperationLogs(self.connection)
        self.clock.observe(int(read_meta(self.connection, _CLOCK) or 0))

    @property
    def log(self) -> Log:
        """This node's own log, begun with its first operation."""
        if self._log is None:
            found = read_meta(self.connection, _LOG)
            self._log = self.begin() if found is None else self.logs.make(self.node, bytes(found))
        return self._log

    @property
    def has_log(self) -> bool:
        """Whether this node has ever said anything."""
        return read_meta(self.connection, _LOG) is not None

    def stamp(self) -> int:
        """The time of the next operation."""
        return self.clock.tick(self.wall)

    def say(self, operation: Operation) -> Admitted:
        """Put an operation into the own log.

        Raises:
            MemoryLimitExceeded: there is no room for it.
        """
        log = self.log
        self.logs.has_seen(log, log.seen + 1)
        return self.logs.admit(log, log.seen, facts_of(operation, self.node), encode(operation))

    def begin(self) -> Log:
        """Begin a new log; the last one is from now on as another node's.

        Raises:
            MemoryLimitExceeded: there were too many.
        """
        made = self.token(LOG_ID_BYTES)
        self._log = self.logs.make(self.node, made)
        keep_meta(self.connection, _LOG, made)
        return self._log

    def flush(self) -> bool:
        """Write what has changed; says whether anything has."""
        changed = self.logs.flush()
        if changed:
            keep_meta(self.connection, _CLOCK, self.clock.last)
        return changed
