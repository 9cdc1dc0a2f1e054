"""What survives a process: its machine, with an address, clocks, a disk, a socket buffer and counters."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from simulations.clocks import MachineClock
from swim.messages import Address

SOCKET_BYTES: Final = 212_992
"""Receive buffer of a datagram socket: Linux's default (net.core.rmem_default)."""
DATAGRAM_OVERHEAD_BYTES: Final = 576
"""What Linux charges the buffer for each datagram beyond its bytes (sk_buff and skb_shared_info)."""


class SocketBuffer:
    """Datagrams that have arrived at a process that does not read.

    Args:
        limit_bytes: What fits, overhead included; more is dropped and counted.
    """

    __slots__ = ("_limit_bytes", "_taken_bytes", "_waiting", "dropped", "most")

    def __init__(self, limit_bytes: int = SOCKET_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._waiting: deque[tuple[bytes, Address, bool]] = deque()
        self.dropped = 0
        self.most = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: bytes, source: Address, corrupted: bool) -> bool:
        """Keep a datagram; say whether it fitted."""
        size = len(data) + DATAGRAM_OVERHEAD_BYTES
        if self._taken_bytes + size > self._limit_bytes:
            self.dropped += 1
            return False
        self._taken_bytes += size
        self._waiting.append((data, source, corrupted))
        self.most = max(self.most, len(self._waiting))
        return True

    def take(self) -> tuple[bytes, Address, bool] | None:
        """The datagram that has waited longest."""
        if not self._waiting:
            return None
        data, source, corrupted = self._waiting.popleft()
        self._taken_bytes -= len(data) + DATAGRAM_OVERHEAD_BYTES
        return data, source, corrupted

    def clear(self) -> None:
        """Forget everything: the process has gone."""
        self._waiting.clear()
        self._taken_bytes = 0


class Traffic:
    """What a machine has sent, by kind: what the first message of a datagram is, or writes on streams.

    Bytes are those of payloads, without IP, UDP and TCP headers.
    """

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[str, list[int]] = {}

    def note(self, kind: str, size: int) -> None:
        """Count one packet."""
        counts = self._kinds.get(kind)
        if counts is None:
            self._kinds[kind] = [1, size]
        else:
            counts[0] += 1
            counts[1] += size

    @property
    def packets(self) -> dict[str, int]:
        """Packets by kind."""
        return {kind: counts[0] for kind, counts in self._kinds.items()}

    @property
    def payload_bytes(self) -> dict[str, int]:
        """Bytes by kind."""
        return {kind: counts[1] for kind, counts in self._kinds.items()}

    def total(self) -> tuple[int, int]:
        """All packets and all bytes."""
        return sum(self.packets.values()), sum(self.payload_bytes.values())


@dataclass(eq=False, slots=True)
class Machine:
    """One machine of the simulated network.

    Args:
        name: Of the member that lives on it.
        address: Where it is reached.
        clock: Its clocks.
        chance: Decides what becomes of what it sends.
        off: Whether it has lost power: nothing is answered.
        disk: What the member kept for its next life.
        buffer: Datagrams that wait to be read.
        traffic: What it has sent.
        boots: How many processes were started on it.
    """

    name: str
    address: Address
    clock: MachineClock
    chance: random.Random
    off: bool = False
    disk: Any = None
    buffer: SocketBuffer = field(default_factory=SocketBuffer)
    traffic: Traffic = field(default_factory=Traffic)
    boots: int = 0
