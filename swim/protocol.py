"""`Swim`: the membership protocol as one state machine; inputs in, effects and events out.

Theory of operation (SWIM, Das et al., DSN 2002; Lifeguard, Dadgar et al., DSN 2018). Each probe
interval one member is pinged. If it is silent, others are asked to ping it, and it is asked over a stream.
If it stays silent and others confirm, it is **suspected**, everybody is told by rumours riding on packets,
and if it does not refute with a higher incarnation before the suspicion ends it is declared **dead**.
Roots of hash trees ride on probes, so that what rumours missed is found and repaired in small packets; a
lost member's address is tried for ever, so that partitions that have healed are repaired without anybody's
help.

Nothing here reads a clock, owns a socket or draws randomness of its own. Times are seconds on the
driver's monotonic clock; `wall_offset` turns them into wall time, which only credentials and the
replicated map need. After every input the driver drains `effects()` and `events()` and asks
`next_timer()` when to call `handle_timer()`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from swim.codec import encode_message, require_address, split_packet
from swim.config import MAX_PACKET_BYTES
from swim.coordinates import Coordinate, distance
from swim.core import Core
from swim.events import CloseStream, Effect, Event, MemberForgotten, MemberReaped, MemberRevoked
from swim.evidence import Finding
from swim.identity import Revocation
from swim.keyring import Channel
from swim.members import Member, Record, Remembered
from swim.messages import (
    Address,
    Alive,
    Boot,
    DecodeError,
)
from swim.partition import Partition, judge
from swim.paths import LostPath

SEED_VISITORS: Final = 8
"""About so many members visit a seed within `seed_refresh_s`, however many there are."""
MAX_GOODBYES: Final = 64
"""Members told directly that we leave; the others hear it by rumour."""


class Swim(Core):
    """One member of a cluster; built and started once per life of a process.

    See `swim.core.Core` for the arguments.
    """

    # ---- life -------------------------------------------------------------------------------

    def start(self, now: float, address: Address | None = None) -> None:
        """Begin this life of the process: called once, before any other input.

        Args:
            now: the time.
            address: where others reach this member, if it was not known before.

        Raises:
            ValueError: if no member would take that address.
        """
        if self._own.is_spoken:
            raise RuntimeError("a Swim starts once; build a new one for a new life")
        require_address(address or self.address)
        self._last_gossip_at = now
        self._timers = (
            self._prober.next_timer, self._accusations.next_timer, self._gossip_due, self._repair.next_timer,
            self._streams.next_timer, self._replicated.next_timer, self._own.next_timer, self._next_reap,
            self._seeds.next_timer, self.traffic.next_timer, self.keys.next_timer, self._spreading.next_timer,
            lambda: self._leave_until,
        )  # fmt: skip
        self._own.start(now + self.wall_offset, address or self.address)
        self.traffic.start(self.own.boot)
        self.keys.begin_life(self.own.boot)
        self._prober.start(now)
        self._reconnect_at = now + self.config.reconnect_interval_s * self._rng.uniform(0.5, 1)
        self._refresh_at = now + self._spread(self.config.seed_refresh_s)

    def join(self, seeds: Sequence[str], now: float) -> None:
        """Try these seeds, `host:port`, until one answers.

        Raises:
            ValueError: for a malformed seed.
        """
        self._seeds.add(list(seeds), now)
        if self._is_running():
            self._try_seeds(now)

    def leave(self, now: float) -> None:
        """Say goodbye; `has_left` turns true after the configured linger."""
        if not self._is_running() or self._leave_until is not None:
            return
        goodbye = encode_message(self._own.leave())
        self._seeds.answered()
        self._prober.stop()
        listeners = self._table.choose(self._rng, MAX_GOODBYES)
        for record in listeners:
            self.send(record, [], statements=[goodbye])
        self._leave_until = now + (self.config.leave_linger_s if listeners else 0.0)
        self._finish_leaving(now)

    def update_meta(self, meta: bytes, now: float) -> None:
        """Change this member's metadata and tell everybody.

        Raises:
            ValueError: if `meta` is too long.
        """
        del now
        self._check_meta(self.config, meta)
        self._own.change(meta=meta)

    def update_address(self, address: Address, now: float) -> None:
        """Tell everybody that this member is now reached elsewhere.

        Raises:
            ValueError: if no member would take that address.
        """
        del now
        require_address(address)
        self._own.change(address=address)

    def load(self, words: Iterable[bytes], now: float) -> int:
        """Take back what `words` returned, in an earlier life or of another member.

        What cannot be decoded, or does not prove itself, is counted and left out.

        Returns:
            How many members became known.
        """
        loaded = 0
        for encoded in words:
            try:
                statement = self._reception.decode_statement(encoded)
                if isinstance(statement, Alive):
                    loaded += self._learning.load(statement, encoded, now)
            except DecodeError as error:
                self._counts[f"dropped_{error.reason}"] += 1
        return loaded

    def words(self) -> list[bytes]:
        """Return the latest words of all who are up, this member included, to be loaded later."""
        return [self._own.encoded, *(record.encoded for record in self._table.up())]

    # ---- the five verbs ---------------------------------------------------------------------

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Handle one datagram, from anybody, with anything in it."""
        if not self._is_running():
            self._counts["dropped_not_running"] += 1
            return
        if len(data) > MAX_PACKET_BYTES:
            self._counts["dropped_oversized"] += 1
            return
        if not self._networks.allows(source[0]):
            self._counts["dropped_network_not_allowed"] += 1
            return
        try:
            packet = split_packet(self._envelope.open(Channel.DATAGRAM, data))
        except DecodeError as error:
            self._counts[f"dropped_{error.reason}"] += 1
            return
        if packet.sender == self.name:
            self._counts["dropped_own_packet"] += 1
            return
        self._counts["packets_received"] += 1
        self._own.meet(now)
        self._reception.take(packet, source, now)
        if self._outgoing.fresh():
            self._repair.disturbed(now)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due; nothing if nothing is."""
        if not self._is_running():
            return
        # Probes are due at moments that were planned; what waits for gossip may be due since long ago.
        lag_s = max(0.0, now - (self._prober.next_timer() or now))
        if self._health.timer_lagged(lag_s, now):
            # We did not run, so nobody could refute to us: give the time back.
            self._counts["stalls"] += 1
            self._accusations.postpone(lag_s)
            self._own.stalled(lag_s, now)
        self._prober.handle_timer(now)
        self._accusations.handle_timer(now)
        self._streams.handle_timer(now)
        self.traffic.handle_timer(now)
        self.keys.handle_timer(now)
        self._repair.handle_timer(now)
        self._own.handle_timer(now, is_well=self._health.is_well, is_heard=self._health.is_heard)
        self._try_seeds(now)
        self._spreading.handle_timer(now)
        map_due = self._replicated.next_timer()
        if map_due is not None and map_due <= now:
            self._replicated.handle_timer(now, now + self.wall_offset)
        gossip_due = self._gossip_due()
        if gossip_due is not None and gossip_due <= now:
            self._gossip(now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + self._spread(self.config.reconnect_interval_s)
            self._reconnect(now)
        if now >= self._refresh_at:
            self._refresh_at = now + self._spread(self.config.seed_refresh_s)
            self._visit_seed(now)
        self._reap(now)
        self._finish_leaving(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted, or None for never."""
        if not self._is_running():
            return None
        due = min(self._reconnect_at, self._refresh_at)
        for next_timer in self._timers:
            time = next_timer()
            if time is not None and time < due:
                due = time
        return due

    def effects(self) -> list[Effect]:
        """Drain what the driver shall do, in order."""
        if not self._effects:
            return []
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def events(self) -> list[Event]:
        """Drain what has happened, in order."""
        if not self._events:
            return []
        events = self._events.copy()
        self._events.clear()
        return events

    def loop_lagged(self, lag_s: float, now: float) -> None:
        """Take note of how long the event loop around this member could not serve it."""
        self._health.loop_lagged(lag_s, now)
        self._own.stalled(lag_s, now)

    # ---- streams ----------------------------------------------------------------------------

    def stream_accepted(self, stream: int, source: Address, now: float) -> None:
        """A peer opened a stream; `stream` is an even number never used before.

        Args:
            stream: its number.
            source: the other end; an empty host if it is not known.
            now: the time.
        """
        if source[0] and not self._networks.allows(source[0]):
            self._counts["dropped_network_not_allowed"] += 1
            self._effects.append(CloseStream(stream))
        elif self._is_running():
            self._streams.accepted(stream, source, now)

    def stream_opened(self, stream: int, now: float) -> None:
        """A stream asked for by an effect is open."""
        self._streams.opened(stream, now)

    def stream_failed(self, stream: int, reason: str, now: float) -> None:
        """A stream could not be opened, or broke."""
        self._streams.failed(stream, reason, now)

    def stream_received(self, stream: int, data: bytes, now: float) -> None:
        """Bytes came on a stream, cut anywhere."""
        self._streams.received(stream, data, now)
        if self._outgoing.fresh():
            self._repair.disturbed(now)

    def stream_closed(self, stream: int, now: float) -> None:
        """The other end closed a stream."""
        self._streams.closed(stream, now)

    # ---- views ------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where others reach this member."""
        return self._own.alive.address

    @property
    def own(self) -> Alive:
        """This member's own latest word."""
        return self._own.alive

    def members(self) -> list[Member]:
        """Return everybody known except this member, dead and departed ones included."""
        return [record.view() for record in self._table.records()]

    def member(self, name: str) -> Member | None:
        """Return one member."""
        record = self._table.get(name)
        return None if record is None else record.view()

    def why(self, name: str) -> tuple[Finding, ...]:
        """Return the findings that led to what is held of a member, the oldest first."""
        return self._evidence.why(name)

    def doubters(self, name: str) -> tuple[str, ...]:
        """Return who doubts a member now, in the order heard; nobody once it has refuted or died."""
        return self._accusations.doubters(name)

    def lost_paths(self) -> list[LostPath]:
        """Return the members that live but cannot be reached directly from here."""
        return self._paths.lost()

    def partition(self, now: float) -> Partition:
        """Return on which side of a partition this member finds itself."""
        up = [record.name for record in self._table.up()]
        lost = [name for name, _ in self._table.lost()]
        return judge(self.name, up, lost, heard_nobody=bool(up) and self._hearing.is_silent(now))

    def rtt(self, a: str, b: str) -> float | None:
        """Return the round trip in seconds between two members, as network coordinates have it."""
        ends = [self._vivaldi.own if name == self.name else self._coordinate(name) for name in (a, b)]
        return None if ends[0] is None or ends[1] is None else distance(ends[0], ends[1])

    def set_stream_probes(self, name: str, *, enabled: bool) -> None:
        """Say whether a member of that name may be asked over a stream when datagrams fail; it may, at first.

        This holds for all its lives, also before it is met and after it was forgotten.

        Raises:
            ValueError: if that was said of as many names as there may be members.
        """
        if enabled:
            self._stream_probes_off.discard(name)
        elif name not in self._stream_probes_off and len(self._stream_probes_off) >= self.config.max_members:
            raise ValueError(f"stream probes are off for {len(self._stream_probes_off)} members already")
        else:
            self._stream_probes_off.add(name)

    def address_book(self) -> list[tuple[str, Address]]:
        """Return name and address of everybody that has not said goodbye, forgotten members included."""
        return self._table.address_book()

    def remember(self, book: Sequence[tuple[str, Address]]) -> None:
        """Take back what `address_book` returned in an earlier life: each is tried until it is met."""
        for name, address in book:
            if name != self.name:
                self._table.remember(name, Remembered(address))

    def last_life(self, name: str) -> Boot | None:
        """Return the last life known of a member, forgotten ones included; None if none is."""
        record, past = self._table.get(name), self._table.remembered(name)
        if record is not None:
            return record.alive.boot
        return None if past is None else past.boot

    def forget(self, name: str, boot: Boot | None = None) -> bool:
        """Take a member that is lost for good for one that has said goodbye: it counts and is tried no more.

        Nothing keeps it from coming back. One that is up is left alone.

        Args:
            name: of the member.
            boot: its last life that is given up; None for whichever is known here.

        Returns:
            Whether it counted until now; then `MemberForgotten` tells of it.
        """
        counted, record = self._table.forget(name, boot)
        if record is not None:
            self._after(record)
        if counted:
            self._events.append(MemberForgotten(name))
        return counted

    def revoke(self, encoded: bytes, now: float) -> Revocation | None:
        """Let a key count no more, by the authority's word: who speaks under it is a member no longer.

        Args:
            encoded: what `swim.identity.issue_revocation` returned.
            now: the time.

        Returns:
            What it says; None, and counted, where the authority has not signed it.
        """
        revocation = self._learning.revoke(encoded)
        if revocation is None:
            self._counts["revocations_refused"] += 1
            return None
        record, past = self._table.get(revocation.name), self._table.remembered(revocation.name)
        if past is not None and past.public_key == revocation.public_key:
            self.forget(revocation.name)
        if record is not None and record.public_key == revocation.public_key:
            before = record.view()
            self._table.expel(record)
            if before.is_up:
                self.gone(record, now)
            self._after(record)
            self._events.append(MemberRevoked(before))
        return revocation

    def statistics(self) -> dict[str, int]:
        """Count everything: members, queues, streams, health, and every drop by its reason."""
        parts = (
            self._table, self._rumours, self._user_queue, self._health, self._streams, self._prober,
            self._accusations, self._learning, self._evidence, self._paths, self._pairwise, self._repair,
            self._vivaldi, self.traffic, self.keys, self._spreading, self._reception, self._hearing,
            self._own, self._outgoing, self._roll, self._seeds,
        )  # fmt: skip
        counted = dict(sorted(self._counts.items()))
        for part in parts:
            counted.update(part.statistics())
        if self.keyring is not None:
            counted.update(self.keyring.statistics())
        return {**counted, "stream_probes_off": len(self._stream_probes_off)}

    # ---- inside -----------------------------------------------------------------------------

    def _coordinate(self, name: str) -> Coordinate | None:
        record = self._table.get(name)
        return None if record is None else record.coordinate

    def _next_reap(self) -> float | None:
        return self._table.next_reap(self.config.reap_after_s)

    def _gossip_due(self) -> float | None:
        """Return when what waits shall be sent on: news soon, other things at the next tick."""
        if not self._table.up_count or not self._outgoing.waits():
            return None
        pause_s = self.config.eager_gap_s if self._outgoing.fresh() else self.config.gossip_interval_s
        return self._last_gossip_at + pause_s

    def _gossip(self, now: float) -> None:
        self._last_gossip_at = now
        targets = self._table.choose(
            self._rng, self.config.gossip_nodes, dead_since=now - self.config.gossip_to_dead_s
        )
        for record in targets:
            self._outgoing.gossip(record.alive.address)

    def _reconnect(self, now: float) -> None:
        """Try the address of somebody who was lost; the more are up, the rarer each of them tries."""
        lost = self._table.lost()
        if not lost or self._leave_until is not None:
            return
        if self._rng.random() * self.size() < len(lost):
            self._try_version(self._counts["reconnect_attempts"])
            self._counts["reconnect_attempts"] += 1
            self._streams.begin(self._rng.choice(lost)[1], now)

    def _try_seeds(self, now: float) -> None:
        for text, address, attempt in self._seeds.due(now):
            self._try_version(attempt)
            # A datagram may be there long before a connection whose first packet was lost.
            self.send_to(address, [], None, statements=self.introduction())
            if not self._streams.begin(address, now, text):
                event = self._seeds.failed(text, "too many streams are open here", now)
                if event is not None:
                    self._events.append(event)

    def _try_version(self, attempt: int) -> None:
        """While nobody is known who has said what it reads, write attempts in one version after the other.

        Who begins with its newest only would be mute for a cluster that is older than itself.
        """
        lowest, highest = self.own.lowest_version, self.own.highest_version
        if not len(self._table):
            self._envelope.speaks = highest - attempt % (highest - lowest + 1)

    def _visit_seed(self, now: float) -> None:
        """Look one seed up again: its name may lead elsewhere by now, or to a part that was cut off.

        One who finds out tells all, so the more are up, the rarer each of them does.
        """
        if self._rng.random() * self.size() >= SEED_VISITORS:
            return
        address = self._seeds.revisit()
        if address is not None and self._leave_until is None:
            self._streams.begin(address, now)

    def _reap(self, now: float) -> None:
        for record in self._table.reap(now, self.config.reap_after_s):
            self._after(record)
            self._events.append(MemberReaped(record.view()))

    def _after(self, record: Record) -> None:
        """Drop what was held of a member that is not in the table any more."""
        self._replicated.forget(record.name)
        self._vivaldi.forget(record.name)
        self._accusations.close(record.name)
        self._reception.forget_seen()
        self.agree_on_version()

    def _finish_leaving(self, now: float) -> None:
        if self._leave_until is not None and now >= self._leave_until:
            self.has_left = True

    def _is_running(self) -> bool:
        return self._own.is_spoken and not self.has_left

    def _spread(self, interval_s: float) -> float:
        return interval_s * self._rng.uniform(0.8, 1.2)
