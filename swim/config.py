"""Every parameter of the membership protocol: its unit, its default and when to change it.

Start from `SwimConfig.profile(...)` and change as little as possible; the profiles are consistent
sets. All members of a cluster should run the same profile: a member with a shorter suspicion than
its peers declares deaths that they would have seen refuted.
"""

import ipaddress
import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, Literal

ProfileName = Literal["local", "lan", "wan", "edge"]

MAX_PACKET_BYTES: Final = 1400
"""Largest datagram ever sent or accepted: it fits an Ethernet frame through a tunnel or two."""
MAX_FRAME_BYTES: Final = 65_536
"""Largest frame inside a stream, before protection."""

MIN_INTERVAL_S: Final = 0.001
"""Shortest interval: a timer that is always due would leave a process nothing else to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimConfig:
    """The parameters of one member. Times are seconds, sizes are bytes.

    Attributes:
        label: the cluster's name. Bound into every packet, so that two clusters on one network
            never mix even if they share a key.
        probe_interval_s: how often one member is probed. Detection time grows with it, traffic
            shrinks with it. Keep it above three round trips.
        probe_timeout_min_s: shortest wait for a direct answer, however short round trips are. It
            has to cover hiccups of a busy process; false alarms cost only relays' packets.
        probe_timeout_s: longest wait for a direct answer before relays and a stream are tried;
            also the wait where the round trip is not known yet. Its 99th percentile, roughly.
        probe_verdict_mult: a probe that is silent for this many direct timeouts has failed. It
            leaves relays their round trips: raise it where those vary much from member to member.
        indirect_probes: how many relays are asked. More hide more loss, and confirm faster, at
            that many packets per failed ping. With none, no doubt would ever find a second witness.
        stream_probes: whether a silent member is also asked over a stream. Switch it off where
            datagrams and streams fail together anyway, and connection attempts are expensive.
        suspicion_min_s: shortest suspicion, once enough members confirm it. It is the main knob:
            a process that stalls for less is never declared dead; detection time grows by it.
        suspicion_max_s: longest suspicion, used while nobody confirms. Raise it where members are often
            cut off alone; a cluster of two waits for all of it.
        suspicion_confirmations: independent accusers beside the first that shrink a suspicion to
            its shortest. More make verdicts surer and later; in small clusters there are not more.
        doubt_margin_s: how much longer than its accusers a member waits that did not probe the
            suspect itself, so that the verdict comes from those who know. A few gossip intervals.
        health_max: highest penalty of local health. Probe interval and timeout are multiplied by
            1 + penalty, so a starved member accuses slowly. 0 switches it off.
        lag_warning_s: how late a timer may fire, or how long one pass of the event loop may take,
            before the lag counts against local health. Above what the host's own work takes at a time.
        isolation_s: a member that has heard nobody for so long takes itself for isolated, and
            judges by its own probes alone. Several probe intervals, above the outages that are usual.
        gossip_interval_s: how often waiting rumours and map units are sent on; nothing is sent when
            nothing waits. Lower spreads repeats faster, at as many more packets while there is news.
        eager_gap_s: news leaves at once, but not more often than this. Raise it where a burst of
            changes makes too many small packets; news is late by as much at each member it passes.
        gossip_nodes: how many random members each gossip tick reaches. One more speeds news up a
            little, at that many more packets.
        gossip_packets: most packets to each of them in one tick, when much waits. Lower it for thin
            links; bursts then take more ticks.
        gossip_to_dead_s: how long a dead member is still told news, so that it can refute. Longer
            than the short outages of the network; afterwards only reconnection finds it.
        retransmit_mult: each rumour is sent this many times log10 of the cluster's size. Hearing
            it again counts as half of a transmission. Below 3 rumours get lost and have to be
            repaired; above 6 it is only traffic.
        repair_stream_after_s: members that differ for so long in spite of single-packet repairs
            open a stream. Lower it where loss is so high that small packets do not get through.
        reconnect_interval_s: how often dead and forgotten members' addresses are tried again.
            This bounds how long a healed partition stays unnoticed, for ever.
        seed_refresh_s: how often one seed is looked up and visited again after joining, by some eight
            members, in case it now is somebody else's address, or another part of the cluster.
            Lower it where names change their addresses often.
        reap_after_s: how long a dead or departed member stays in the table. Lower it where names are
            used once, so that the table does not fill with past members.
        join_retry_initial_s: pause after the first failed attempt at a seed; it doubles. Lower it
            where nodes start together with their seeds.
        join_retry_max_s: longest pause between two attempts at a seed. A seed that comes up late is
            found so late at most; raise it where attempts cost money.
        leave_linger_s: how long a leaving member keeps telling others before it is gone. A few gossip
            intervals; 0 leaves at once, and who has not heard of it declares a death.
        stream_timeout_s: longest life of one push-pull stream. It has to cover a full exchange over
            the slowest link, connection included.
        max_streams: most push-pull streams at once, both directions together. Raise it for seeds of
            clusters that start all at once; each may hold `max_state_bytes`.
        max_state_bytes: most bytes taken from one stream. Above the size of all members' words and
            maps together; it bounds what one peer can make this member hold.
        max_members: most members in the table; further names are refused and counted. Above the
            largest cluster expected, past members of `reap_after_s` included.
        max_meta_bytes: most bytes of application metadata in an Alive statement. Each byte is in
            every copy of it, so leave it at what the application needs.
        max_map_frame_bytes: most bytes of one frame of the replicated map, so that it fits a
            datagram together with the envelope. Lower it only where more is put around packets.
        max_rumours: most rumours waiting to be sent; the most-sent leaves first. Several times the
            members that may change at once; repair finds what left too early.
        max_remembered: most reaped members kept in the address book for reconnection. Above the
            members that one partition may hide.
        max_seeds: most seeds taken by `join`. A handful is enough; more only make starts noisy.
        max_clock_lead_s: an Alive whose process started this far in our future is refused. Above what
            clocks without time synchronisation are off; a member with a worse one cannot join.
        duplicate_grace_s: a higher boot of our own name seen this soon after we first heard a peer
            is taken for a leftover of our past life (the clock went back) and outbid; later it is
            a second live process with our name, unless it is said to listen where we do. As long as
            news takes to get everywhere, at least.
        allowed_networks: networks in CIDR notation that members may have their addresses in;
            packets from elsewhere are dropped unread. Empty for everywhere.
    """

    label: str = "caxton"
    probe_interval_s: float = 1.0
    probe_timeout_min_s: float = 0.1
    probe_timeout_s: float = 0.15
    probe_verdict_mult: float = 2.5
    indirect_probes: int = 3
    stream_probes: bool = True
    suspicion_min_s: float = 4.1
    suspicion_max_s: float = 24.0
    suspicion_confirmations: int = 2
    doubt_margin_s: float = 1.0
    health_max: int = 7
    lag_warning_s: float = 0.25
    isolation_s: float = 10.0
    gossip_interval_s: float = 0.2
    eager_gap_s: float = 0.02
    gossip_nodes: int = 3
    gossip_packets: int = 8
    gossip_to_dead_s: float = 30.0
    retransmit_mult: float = 4.0
    repair_stream_after_s: float = 10.0
    reconnect_interval_s: float = 10.0
    seed_refresh_s: float = 60.0
    reap_after_s: float = 3_600.0
    join_retry_initial_s: float = 0.2
    join_retry_max_s: float = 15.0
    leave_linger_s: float = 1.0
    stream_timeout_s: float = 10.0
    max_streams: int = 128
    max_state_bytes: int = 20 * 1024 * 1024
    max_members: int = 5_000
    max_meta_bytes: int = 512
    max_map_frame_bytes: int = 1_150
    max_rumours: int = 4_096
    max_remembered: int = 4_096
    max_seeds: int = 64
    max_clock_lead_s: float = 86_400.0
    duplicate_grace_s: float = 10.0
    allowed_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work, naming the parameter.

        Raises:
            ValueError: when a parameter is out of its range.
        """
        verdict_s = self.probe_timeout_s * self.probe_verdict_mult
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number and not negative")
        rules = (
            (1 <= len(self.label.encode()) <= 255, "label must have 1 to 255 bytes"),
            (0 < self.probe_timeout_min_s <= self.probe_timeout_s, "probe_timeout_min_s exceeds the longest"),
            (self.probe_verdict_mult >= 1.5, "probe_verdict_mult must be at least 1.5"),
            (verdict_s <= self.probe_interval_s, "probe_verdict_mult leaves no time before the next probe"),
            (0 < self.suspicion_min_s <= self.suspicion_max_s, "suspicion_min_s exceeds suspicion_max_s"),
            (self.suspicion_min_s >= verdict_s, "suspicion_min_s must leave room for one more probe"),
            (0 <= self.suspicion_confirmations < 16, "suspicion_confirmations must be 0 to 15"),
            (self.indirect_probes >= 1, "indirect_probes must be at least 1: relays are the witnesses"),
            (self.health_max >= 0, "health_max must not be negative"),
            (self.retransmit_mult >= 1, "retransmit_mult must be at least 1"),
            (0 < self.join_retry_initial_s <= self.join_retry_max_s, "join_retry_initial_s exceeds the max"),
            (self.lag_warning_s > 0, "lag_warning_s must be positive: every timer is a little late"),
            (min(self.probe_interval_s, self.gossip_interval_s, self.eager_gap_s, self.reconnect_interval_s,
                 self.seed_refresh_s, self.reap_after_s, self.stream_timeout_s, self.isolation_s,
                 self.repair_stream_after_s) >= MIN_INTERVAL_S,
             f"intervals must be positive, and at least {MIN_INTERVAL_S:g} s"),
            (min(self.gossip_nodes, self.gossip_packets, self.max_streams, self.max_members,
                 self.max_rumours, self.max_seeds, self.max_remembered) >= 1,
             "counts and caps must be at least 1"),
            (self.max_state_bytes >= MAX_FRAME_BYTES, f"max_state_bytes must be at least {MAX_FRAME_BYTES}"),
            (0 <= self.max_meta_bytes <= 512, "max_meta_bytes must be 0 to 512"),
            (64 <= self.max_map_frame_bytes <= 1_150, "max_map_frame_bytes must be 64 to 1150"),
        )  # fmt: skip
        for holds, message in rules:
            if not holds:
                raise ValueError(message)
        for network in self.allowed_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"allowed_networks: {error}") from None

    @classmethod
    def profile(cls, name: ProfileName, **changes: Any) -> "SwimConfig":
        """Return a consistent set of parameters for a kind of network.

        Args:
            name: `local` for processes on one machine, `lan` for one data centre, `wan` for
                members far apart, `edge` for two to five boxes with nobody to confirm a doubt.
            **changes: parameters to set on top of the profile.
        """
        return replace(cls(**PROFILES[name]), **changes)

    def retransmissions(self, members: int) -> int:
        """Return how many times one rumour is sent in a cluster of `members`."""
        return _transmissions(self.retransmit_mult, members)


@lru_cache(maxsize=1024)
def _transmissions(mult: float, members: int) -> int:
    return math.ceil(mult * math.ceil(math.log10(max(1, members) + 1)))


PROFILES: Final[dict[str, dict[str, Any]]] = {
    "local": {
        "probe_interval_s": 0.5,
        "suspicion_min_s": 2.5,
        "suspicion_max_s": 5.0,
        "suspicion_confirmations": 1,
        "doubt_margin_s": 0.5,
        "health_max": 3,
        "isolation_s": 5.0,
        "gossip_interval_s": 0.1,
        "repair_stream_after_s": 5.0,
        "reconnect_interval_s": 5.0,
        "seed_refresh_s": 30.0,
        "join_retry_initial_s": 0.1,
        "join_retry_max_s": 2.0,
        "leave_linger_s": 0.4,
        "stream_timeout_s": 5.0,
    },
    "lan": {},
    "wan": {
        "probe_interval_s": 3.0,
        "probe_timeout_min_s": 0.3,
        "probe_timeout_s": 1.0,
        "suspicion_min_s": 12.0,
        "suspicion_max_s": 60.0,
        "doubt_margin_s": 3.0,
        "lag_warning_s": 1.0,
        "isolation_s": 30.0,
        "gossip_interval_s": 0.5,
        "eager_gap_s": 0.05,
        "gossip_nodes": 4,
        "repair_stream_after_s": 30.0,
        "reconnect_interval_s": 20.0,
        "seed_refresh_s": 120.0,
        "join_retry_max_s": 60.0,
        "leave_linger_s": 3.0,
        "stream_timeout_s": 30.0,
    },
    "edge": {
        "probe_timeout_min_s": 0.2,
        "probe_timeout_s": 0.4,
        "suspicion_min_s": 5.0,
        "suspicion_max_s": 10.0,
        "suspicion_confirmations": 1,
        "health_max": 3,
        "join_retry_max_s": 30.0,
    },
}
"""What each profile changes. `lan` is the defaults. `edge` lets one confirmation shorten a
suspicion, because in three boxes there is only one other witness, and waits twice as long when
there is none."""
