"""Streams of simulated members: what ``swim/driver.py`` does with TCP, over :mod:`simulations.tcp`.

The core names the streams it opens by odd numbers; accepted ones get even numbers here. A connection that
takes longer than the core's ``stream_timeout_s`` is given up, as the driver does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulations.tcp import Connection, Dial
from simulations.timeline import Process

if TYPE_CHECKING:
    from simulations.machines import Machine
    from simulations.members import MemberCluster, SimulatedMember
    from swim.messages import Address

STREAM: Final = "stream"
"""Kind under which writes on streams are counted."""
CONNECT: Final = "connect"
"""Kind under which connection attempts are counted."""
SYN_BYTES: Final = 40
"""An attempt to connect has no payload; its header is counted, so that attempts are not for nothing."""


class MemberStream:
    """One end of a stream, or an attempt to open one.

    Args:
        cluster: Where its member lives.
        member: Whose end it is.
        number: The core's number of it.
    """

    def __init__(self, cluster: MemberCluster, member: SimulatedMember, number: int) -> None:
        self._cluster, self._member, self.number = cluster, member, number
        self.dial: Dial | None = None
        self.connection: Connection | None = None
        self.peer = ""

    # ---- what tcp.py wants to know of an end -------------------------------------------------

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self._member.machine.name

    @property
    def process(self) -> Process:
        """The process that reads it."""
        return self._member

    @property
    def is_closed(self) -> bool:
        """Whether the member has closed it or is no more."""
        return self._member.fenced or self._member.streams.get(self.number) is not self

    @property
    def is_off(self) -> bool:
        """Whether the machine is off, or another one has its address now."""
        return self._member.machine.off

    @property
    def has_vanished(self) -> bool:
        """Whether the machine has lost its power in the life of its member."""
        return self._member.lost_power

    def take(self, data: bytes) -> None:
        """Bytes arrive."""
        member = self._member
        self._cluster.trace(member, "bytes", f"{self.peer:<8} {len(data):>6} #{self.number}")
        member.swim.stream_received(self.number, data, self._cluster.local_now(member))
        self._cluster.pump(member)

    def end(self) -> None:
        """The other end has closed."""
        member = self._member
        self._cluster.trace(member, "closed", f"{self.peer:<8} {'':>6} #{self.number}")
        member.swim.stream_closed(self.number, self._cluster.local_now(member))
        self._cluster.pump(member)

    def break_(self, reason: str) -> None:
        """The connection is no more, or has not come about."""
        if self.is_closed:
            return
        member = self._member
        del member.streams[self.number]
        self._cluster.trace(member, "broken", f"{self.peer:<8} {'':>6} #{self.number} {reason}")
        member.swim.stream_failed(self.number, reason, self._cluster.local_now(member))
        self._cluster.pump(member)

    # ---- what the member does with it --------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write."""
        if self.connection is not None:
            self._member.machine.traffic.note(STREAM, len(data))
            self.connection.pipe(self).send(data)

    def close(self) -> None:
        """Close after what was written; nothing is told any more."""
        self._member.streams.pop(self.number, None)
        if self.dial is not None:
            self.dial.cancel()
        if self.connection is not None:
            self.connection.pipe(self).finish()

    def reset(self) -> None:
        """The process has died; without the power of its machine nobody says so."""
        if self.dial is not None:
            self.dial.cancel()
        if self.connection is not None:
            if self._member.machine.off:
                self.connection.vanish(self)
            else:
                self.connection.reset(self)

    # ---- opening -----------------------------------------------------------------------------

    def open(self, to: Address) -> None:
        """Connect, and report."""
        cluster, member = self._cluster, self._member
        target = cluster.machine_at(to)
        self.peer = to[0] if target is None else target.name
        cluster.trace(member, "connect", f"{self.peer:<8} {'':>6} #{self.number}")
        member.machine.traffic.note(CONNECT, SYN_BYTES)
        timeline = cluster.timeline
        timeout_us = int(member.swim.config.stream_timeout_s * 1e6)
        timeline.after_us(timeout_us, self._give_up, process=member)
        self.dial = Dial(
            timeline,
            cluster.links.of,
            member.machine.chance,
            source=member.machine.name,
            target=self.peer,
            answer=lambda: _answer(cluster, to),
            done=lambda how, us: self._connected(how, us, to),
            process=member,
        )

    def _connected(self, how: str, accepted_us: int, to: Address) -> None:
        cluster, member = self._cluster, self._member
        if self.is_closed:
            return
        machine = cluster.machine_at(to)
        other = None if machine is None else cluster.running.get(machine.name)
        if how == "accepted" and machine is not None and machine.off:
            return  # it has lost its power since it answered, and nobody says so: given up in time
        if how != "accepted" or other is None:
            self.break_("connection refused" if how != "timed out" else "connection timed out")
            return
        far = MemberStream(cluster, other, other.next_accepted)
        other.next_accepted += 2
        far.peer = member.machine.name
        other.streams[far.number] = far
        connection = Connection(
            cluster.timeline, cluster.links.of, member.machine.chance, self, far, counts=cluster.fates
        )
        self.connection = far.connection = connection
        connection.pipe(self).not_before(accepted_us)
        cluster.timeline.at_us(accepted_us, far.accepted, member.machine.address, process=other)
        cluster.trace(member, "opened", f"{self.peer:<8} {'':>6} #{self.number}")
        member.swim.stream_opened(self.number, cluster.local_now(member))
        cluster.pump(member)

    def accepted(self, source: Address) -> None:
        """A peer has opened this stream."""
        if self.is_closed:
            return
        cluster, member = self._cluster, self._member
        cluster.trace(member, "accept", f"{self.peer:<8} {'':>6} #{self.number}")
        member.swim.stream_accepted(self.number, (source[0], 0), cluster.local_now(member))
        cluster.pump(member)

    def _give_up(self) -> None:
        if self.connection is None and not self.is_closed:
            if self.dial is not None:
                self.dial.cancel()
            self.break_(f"no connection within {self._member.swim.config.stream_timeout_s:g} s")


def _answer(cluster: MemberCluster, to: Address) -> bool | None:
    """What a machine says to a request to connect; a paused process has a kernel that still answers."""
    machine: Machine | None = cluster.machine_at(to)
    if machine is None or machine.off:
        return None
    return machine.name in cluster.running
