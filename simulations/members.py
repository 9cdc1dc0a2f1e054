"""A cluster of membership cores, without nodes and without Trio: production ``Swim`` objects on a timeline.

Each member is one ``swim.protocol.Swim`` on a machine of its own. What its driver does (``swim/driver.py``)
is done here: datagrams and streams' bytes go in, effects come out and are carried out over
:mod:`simulations.links` and :mod:`simulations.tcp`, the timer is called when it is due. A paused process
does nothing while its socket buffer fills; when it goes on it reads what has arrived first, then what came on
streams, and only then does its timer fire, late.

Everybody who is of interest is told by :class:`simulations.watcher.Watcher`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TextIO

from simulations import production
from simulations.clocks import MachineClock
from simulations.garbage import rare_collections
from simulations.links import Link, Links
from simulations.machines import Machine, SocketBuffer
from simulations.member_streams import MemberStream
from simulations.timeline import Timeline
from simulations.trace import Trace
from simulations.watcher import Watcher
from swim.broadcast import Replicated
from swim.config import SwimConfig
from swim.events import CloseStream, DuplicateName, Event, OpenStream, SendDatagram, SendStream
from swim.messages import Address
from swim.protocol import Swim

PORT: Final = 7946
MAX_DRAINED_DATAGRAMS: Final = 4_096
"""Datagrams read after a pause before a timer fires all the same (``swim.driver.MAX_DRAINED_DATAGRAMS``)."""
MAX_CLOCK_START_S: Final = 100_000
"""Monotonic clocks begin at different numbers up to this one, so that a local time sent to others shows."""
MAX_MACHINES: Final = 65_534
"""Addresses there are."""


class SimulatedMember:
    """One life of a member's process.

    Attributes:
        name: The member's name.
        machine: Where it runs.
        swim: The production core.
        paused: Whether it stands still.
        fenced: Whether it has ended.
        lost_power: Whether its machine has lost its power with it.
        leaving: Whether it is saying goodbye.
        acquainted: Whether it knew everybody from the start, without having to meet them.
        introducers: Whom it was told of when it started, by its seeds or by its disk.
        streams: Its open streams by the core's numbers.
        next_accepted: The number of the next accepted stream.
        timer_us: When its timer is looked at next; None while nothing is planned.
        due_us: When the core wants its timer to fire.
    """

    __slots__ = (
        "acquainted",
        "due_us", "fenced", "introducers", "leaving", "lost_power", "machine", "name", "next_accepted",
        "paused", "streams", "swim", "timer_us",
    )  # fmt: skip

    def __init__(self, machine: Machine, swim: Swim) -> None:
        self.name = machine.name
        self.machine = machine
        self.swim = swim
        self.paused = self.fenced = False
        self.leaving = self.acquainted = self.lost_power = False
        self.introducers: tuple[str, ...] = ()
        self.streams: dict[int, MemberStream] = {}
        self.next_accepted = 2
        self.timer_us: int | None = None
        self.due_us: int | None = None


class MemberCluster:
    """Members by name, on one timeline.

    Args:
        seed: Everything random follows from it.
        config: The parameters of all members.
        link: The link of every pair that no fault touches.
        gossip_keys: Keys of the packets' encryption; a checksum without any.
        replicated: Makes the map that rides along, by the member's name.
        sink: Where the trace is written.
        identities: Who everybody is; sharing one between runs saves signing.
        shared_cryptography: Whether one member uses what another has computed of signatures and keys, which
            changes nothing but the time it takes; without it each computes all for itself, as in production.

    Attributes:
        timeline: When things happen.
        links: How packets travel.
        running: Members whose process has not ended, paused ones included, in the order of their start.
        machines: All machines there ever were.
        lines: The trace.
        watchers: Who is told of everything.
        hold_timers: Whether no timer fires, for :mod:`simulations.leap`.
        fates: What became of datagrams (``full`` is a buffer of a paused process), and segments sent again.
    """

    def __init__(
        self,
        seed: int,
        config: SwimConfig,
        *,
        link: Link | None = None,
        gossip_keys: Sequence[bytes] = (),
        replicated: Callable[[str], Replicated] | None = None,
        sink: TextIO | None = None,
        identities: production.Identities | None = None,
        shared_cryptography: bool = True,
    ) -> None:
        self.timeline = Timeline(seed)
        self.config = config
        self.links = Links(link)
        self.running: dict[str, SimulatedMember] = {}
        self.machines: dict[str, Machine] = {}
        self.lines = Trace(sink=sink)
        self.watchers: list[Watcher] = []
        self.identities = identities or production.Identities()
        cryptography = production.SharedCryptography if shared_cryptography else production.Cryptography
        self._cryptography = cryptography(self.identities.authority)
        self._gossip_keys = tuple(gossip_keys)
        self._replicated = replicated
        self._by_address: dict[Address, Machine] = {}
        self._addresses = 0
        self._sent_watchers: list[Watcher] = []
        self.fates: Counter[str] = Counter()
        self.hold_timers = False
        self._flying = 0

    # ---- who there is ------------------------------------------------------------------------

    def watch(self, *watchers: Watcher) -> None:
        """Tell watchers of everything from now on."""
        self.watchers += watchers
        self._sent_watchers = [w for w in self.watchers if type(w).sent is not Watcher.sent]

    def machine(self, name: str) -> Machine:
        """The machine of a member, a new one if it had none."""
        machine = self.machines.get(name)
        if machine is None:
            timeline = self.timeline
            start_s = float(timeline.stream(name, "clock").randint(1, MAX_CLOCK_START_S))
            machine = Machine(
                name, self._new_address(), MachineClock(start_s), timeline.stream(name, "network")
            )
            self.machines[name] = self._by_address[machine.address] = machine
        return machine

    def machine_at(self, address: Address) -> Machine | None:
        """The machine that is reached at an address now."""
        return self._by_address.get(address)

    def live(self) -> list[SimulatedMember]:
        """Everybody who runs and has not said goodbye."""
        return [member for member in self.running.values() if not member.leaving]

    def seeds(self, names: Iterable[str]) -> list[str]:
        """The addresses of members as ``join`` takes them."""
        return ["{}:{}".format(*self.machine(name).address) for name in names]

    # ---- life and death ----------------------------------------------------------------------

    def start(self, name: str, *, seeds: Iterable[str] = (), disk: bool = True) -> SimulatedMember:
        """Start a process, for the first time or again.

        Args:
            name: Of the member.
            seeds: Names of members to join through.
            disk: Whether it still has what it kept in its earlier life.
        """
        member = self._spawn(name)
        now = self.local_now(member)
        member.swim.start(now)
        machine = member.machine
        if disk and machine.disk is not None:
            member.introducers = production.recall(member.swim, machine.disk, now)
        others = tuple(seed for seed in seeds if seed != name)
        if others:
            member.introducers += others
            member.swim.join(self.seeds(others), now)
        self._changed("started", member)
        self.pump(member)
        return member

    def start_converged(self, names: Sequence[str]) -> None:
        """Start members that have known each other for long; nothing is simulated of how they met."""
        with rare_collections():
            members = [self._spawn(name) for name in names]
            for member in members:
                member.swim.start(self.local_now(member))
            production.acquaint([(member.swim, self.local_now(member)) for member in members])
        for member in members:
            member.introducers, member.acquainted = tuple(names), True
            self._changed("started", member)
            self.pump(member)

    def crash(self, name: str, *, power: bool = False) -> None:
        """End a process as SIGKILL does.

        Args:
            name: Of the member.
            power: Whether the machine goes too, so that nothing answers for its sockets any more.
        """
        member = self.running[name]
        member.machine.off = member.lost_power = power
        self._end(member, "crashed")

    def leave(self, name: str) -> None:
        """Let a member say goodbye; its process ends when that has been said."""
        member = self.running[name]
        self.trace(member, "fault", "leave")
        member.leaving = True
        member.swim.leave(self.local_now(member))
        self.pump(member)

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: its sockets fill, and nothing else happens."""
        member = self.running[name]
        member.paused = True
        self._changed("paused", member)

    def resume(self, name: str) -> None:
        """Let a paused process go on: it reads first, and then its timer fires."""
        member = self.running[name]
        if not member.paused:
            return
        self._changed("resumed", member)
        member.paused = False
        if member.due_us is not None:
            lag_s = (self.timeline.now_us - member.due_us) / 1_000_000
            production.lagged(member.swim, lag_s, self.local_now(member))
        for _ in range(MAX_DRAINED_DATAGRAMS):
            waiting = member.machine.buffer.take()
            if waiting is None or member.fenced:
                break
            self._receive(member, *waiting)
        self.timeline.resume(member)
        self._plan_timer(member)

    def move(self, name: str) -> None:
        """Give a machine another address; its process has to end first."""
        machine = self.machine(name)
        del self._by_address[machine.address]
        machine.address = self._new_address()
        self._by_address[machine.address] = machine

    def set_clock(self, name: str, *, rate: float | None = None, wall_offset_s: float | None = None) -> None:
        """Let a machine's clocks run at another rate, or set its wall clock."""
        machine = self.machine(name)
        machine.clock.change(self.timeline.now_us, rate=rate, wall_offset_s=wall_offset_s)
        member = self.running.get(name)
        if member is not None:
            self._set_wall(member)
            member.timer_us = None
            self._plan_timer(member)

    # ---- time --------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run_until(self.timeline.now_us + round(seconds * 1_000_000))

    def local_now(self, member: SimulatedMember) -> float:
        """What a member's monotonic clock shows; its core learns the wall time beside it."""
        clock, now_us = member.machine.clock, self.timeline.now_us
        now = clock.local(now_us)
        if clock.rate != 1.0:
            member.swim.wall_offset = clock.wall(now_us) - now
        return now

    @property
    def on_the_way(self) -> int:
        """How many datagrams are on the way, and how many streams are open."""
        return self._flying + sum(
            stream.connection is not None
            for member in self.running.values()
            for stream in member.streams.values()
        )

    def plan_timer_at(self, member: SimulatedMember, us: int) -> None:
        """Let a member's timer fire at a time, whenever the core wants it."""
        member.timer_us = member.due_us = us
        self.timeline.at_us(us, self._timer, member, us)

    def trace(self, member: SimulatedMember, what: str, rest: str) -> None:
        """Add a line about a member."""
        self.lines.add(self.timeline.now_us, member.name, what, rest)

    # ---- what the driver does ----------------------------------------------------------------

    def pump(self, member: SimulatedMember) -> None:
        """Carry out what a core asks for, tell what it tells, and plan its timer."""
        swim = member.swim
        for effect in swim.effects():
            if type(effect) is SendDatagram:
                self._send(member, effect.data, effect.to)
            elif isinstance(effect, OpenStream):
                stream = member.streams[effect.id] = MemberStream(self, member, effect.id)
                stream.open(effect.to)
            elif isinstance(effect, SendStream | CloseStream):
                self._write(member, effect)
        for event in swim.events():
            self._tell(member, event)
        if swim.has_left and not member.fenced:
            self._end(member, "left")
        self._plan_timer(member)

    def _write(self, member: SimulatedMember, effect: SendStream | CloseStream) -> None:
        stream = member.streams.get(effect.id)
        if stream is None:
            return
        if isinstance(effect, CloseStream):
            stream.close()
        else:
            told = f"{stream.peer:<8} {len(effect.data):>6} {zlib.crc32(effect.data):08x} #{stream.number}"
            self.trace(member, "write", told)
            stream.send(effect.data)

    def _send(self, member: SimulatedMember, data: bytes, to: Address) -> None:
        machine, timeline, size = member.machine, self.timeline, len(data)
        now_us = timeline.now_us
        kind = production.kind_of(data)
        machine.traffic.note(kind, size)
        for watcher in self._sent_watchers:
            watcher.sent(member, data, kind)
        target = self._by_address.get(to)
        if target is None:
            self.trace(member, "send", f"{to[0]:<8} {size:>6} {kind:<8} nobody")
            return
        flight = self.links.of(machine.name, target.name).datagram(data, now_us, machine.chance)
        fate, after_us, arriving, again_us = flight
        self.fates[fate] += 1
        then = str(now_us + after_us) if after_us >= 0 else fate
        if again_us is not None:
            then = f"{then} {now_us + again_us}"
        self.lines.add(
            now_us,
            member.name,
            "send",
            f"{target.name:<8} {size:>6} {kind:<8} {zlib.crc32(data):08x} {then}",
        )
        if after_us < 0:
            return
        self._flying += 1
        arguments = (target, to, arriving, machine.address, fate == "corrupt")
        timeline.at_us(now_us + after_us, self._arrive, *arguments)
        if again_us is not None:
            self._flying += 1
            self.fates["duplicate"] += 1
            timeline.at_us(now_us + again_us, self._arrive, *arguments)

    def _arrive(self, machine: Machine, to: Address, data: bytes, source: Address, corrupted: bool) -> None:
        self._flying -= 1
        member = self.running.get(machine.name)
        if member is None or machine.address != to:
            return
        if not member.paused:
            self._receive(member, data, source, corrupted)
        elif not machine.buffer.put(data, source, corrupted):
            self.fates["full"] += 1
            self.trace(member, "full", f"{'':<8} {len(data):>6}")

    def _receive(self, member: SimulatedMember, data: bytes, source: Address, corrupted: bool) -> None:
        before = _dropped(member.swim) if corrupted else 0
        member.swim.receive(data, source, self.local_now(member))
        if corrupted:
            dropped = _dropped(member.swim) - before
            self.trace(member, "corrupt", f"{'':<8} {len(data):>6} {dropped} dropped")
            for watcher in self.watchers:
                watcher.corrupted(member, dropped)
        self.pump(member)

    def _plan_timer(self, member: SimulatedMember) -> None:
        """Look at the timer when it is due; one that moved further away is looked at once too often."""
        if member.fenced or member.paused or self.hold_timers:
            return
        due = member.swim.next_timer()
        if due is None:
            member.due_us = None
            return
        member.due_us = due_us = max(self.timeline.now_us, member.machine.clock.true_us(due))
        if member.timer_us is None or due_us < member.timer_us:
            member.timer_us = due_us
            self.timeline.at_us(due_us, self._timer, member, due_us)

    def _timer(self, member: SimulatedMember, planned_us: int) -> None:
        if member.timer_us != planned_us or member.fenced or self.hold_timers:
            return
        member.timer_us = None
        if member.paused or member.due_us is None:
            return
        if member.due_us > planned_us:
            member.timer_us = member.due_us
            self.timeline.at_us(member.due_us, self._timer, member, member.due_us)
            return
        member.swim.handle_timer(self.local_now(member))
        self.pump(member)

    # ---- inside ------------------------------------------------------------------------------

    def _spawn(self, name: str) -> SimulatedMember:
        if name in self.running:
            raise ValueError(f"{name} runs already")
        machine = self.machine(name)
        machine.off = False
        machine.boots += 1
        machine.buffer.clear()
        swim = production.build(
            self.config,
            self.identities,
            name,
            machine.address,
            self.timeline.stream(name, f"life {machine.boots}"),
            cryptography=self._cryptography,
            gossip_keys=self._gossip_keys,
            replicated=self._replicated,
        )
        member = self.running[name] = SimulatedMember(machine, swim)
        self._set_wall(member)
        return member

    def _set_wall(self, member: SimulatedMember) -> None:
        """Tell a core how far its wall clock is from its monotonic one; if they drift, it is told often."""
        clock, now_us = member.machine.clock, self.timeline.now_us
        member.swim.wall_offset = clock.wall(now_us) - clock.local(now_us)

    def _end(self, member: SimulatedMember, how: str) -> None:
        member.fenced = True
        member.machine.disk = production.remembered(member.swim)
        del self.running[member.name]
        for stream in list(member.streams.values()):
            stream.reset()
        member.streams.clear()
        member.machine.buffer.clear()
        self.timeline.forget(member)
        self._changed(how, member)

    def _tell(self, member: SimulatedMember, event: Event) -> None:
        spoken_of = production.subject(event)
        about = f"{spoken_of.name:<8} {spoken_of.incarnation}" if spoken_of is not None else ""
        self.trace(member, "event", f"{type(event).__name__:<15} {about}")
        for watcher in self.watchers:
            watcher.told(member, event)
        if isinstance(event, DuplicateName) and not member.fenced:
            self._end(member, "stopped")  # as a node does

    def _changed(self, what: str, member: SimulatedMember) -> None:
        self.trace(member, "fault", what)
        for watcher in self.watchers:
            watcher.changed(what, member)

    def _new_address(self) -> Address:
        self._addresses += 1
        if self._addresses > MAX_MACHINES:
            raise ValueError(f"there are only {MAX_MACHINES} addresses")
        return f"10.0.{self._addresses // 256}.{self._addresses % 256}", PORT

    def statistics(self) -> dict[str, int]:
        """Count members, happenings, links and lines."""
        return {
            "running": len(self.running),
            "machines": len(self.machines),
            "lines": self.lines.count,
            **{f"fate_{fate}": count for fate, count in sorted(self.fates.items())},
            **self._cryptography.statistics(),
            **self.timeline.statistics(),
            **self.links.statistics(),
        }


def _dropped(swim: Swim) -> int:
    return sum(count for name, count in swim.statistics().items() if name.startswith("dropped_"))


__all__ = ["PORT", "MemberCluster", "SimulatedMember", "SocketBuffer"]
