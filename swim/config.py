"""Every parameter of the membership protocol: its unit, its default and when to change it.

Start from `SwimConfig.profile(...)` and change as little as possible; the profiles are consistent
sets. All members of a cluster should run the same profile: a member with a shorter suspicion than
its peers declares deaths that they would have seen refuted.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

ProfileName = Literal["local", "lan", "wan", "edge"]

MAX_PACKET_BYTES: Final = 1400
"""Largest datagram ever sent or accepted: it fits an Ethernet frame through a tunnel or two."""
MAX_FRAME_BYTES: Final = 65_536
"""Largest frame inside a stream, before protection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimConfig:
    """The parameters of one member. Times are seconds, sizes are bytes.

    Attributes:
        label: the cluster's name. Bound into every packet, so that two clusters on one network
            never mix even if they share a key.
        probe_interval_s: how often one member is probed. Detection time grows with it, traffic
            shrinks with it. Keep it above three round trips.
        probe_timeout_s: how long the direct ping may take before relays are asked. The 99th
            percentile of the round trip, and well under `probe_interval_s`.
        indirect_probes: how many relays are asked. More hide more loss, at that many packets per
            failed ping.
        suspicion_mult: shortest suspicion, in probe intervals (times log10 of the cluster's size
            from ten members on). Raise it where processes stall; it is the main knob against
            false deaths, and detection time grows by the same amount.
        suspicion_max_mult: longest suspicion, as a multiple of the shortest; used until others
            confirm. 1 switches Lifeguard's shrinking off.
        suspicion_confirmations: independent accusers that shrink a suspicion to its shortest.
        health_max: highest penalty of local health. Probe interval and timeout are multiplied by
            1 + penalty, so a starved member accuses slowly. 0 switches it off.
        lag_warning_s: how late a timer may fire before the lag counts against local health.
        gossip_interval_s: how often waiting rumours and map units are sent on. Silent when
            nothing waits.
        gossip_nodes: how many random members each gossip tick reaches.
        gossip_packets: most packets to each of them in one tick, when much waits.
        gossip_to_dead_s: how long a dead member is still told news, so that it can refute.
        retransmit_mult: each rumour is sent this many times log10 of the cluster's size. Below 3
            rumours get lost; above 6 it is only traffic.
        push_pull_interval_s: how often full state is exchanged with one random member over a
            stream. It repairs what gossip lost; costs bytes in proportion to the cluster.
        reconnect_interval_s: how often one dead or forgotten member's address is tried again.
            This bounds how long a healed partition stays unnoticed, for ever.
        reap_after_s: how long a dead or departed member stays in the table.
        join_retry_initial_s: pause after the first failed attempt at a seed; it doubles.
        join_retry_max_s: longest pause between two attempts at a seed.
        leave_linger_s: how long a leaving member keeps telling others before it is gone.
        stream_timeout_s: longest life of one push-pull stream.
        max_streams: most push-pull streams at once, both directions together.
        max_state_bytes: most bytes taken from one stream.
        max_members: most members in the table; further names are refused and counted.
        max_meta_bytes: most bytes of application metadata in an Alive statement.
        max_map_frame_bytes: most bytes of one frame of the replicated map, so that it fits a
            datagram together with the envelope.
        max_rumours: most rumours waiting to be sent; the most-sent leaves first.
        max_remembered_addresses: most addresses of reaped members kept for reconnection.
        max_seeds: most seeds taken by `join`.
        max_clock_lead_s: an Alive whose process started this far in our future is refused.
        duplicate_grace_s: a higher boot of our own name seen this soon after we first heard a peer
            is taken for a leftover of our past life (the clock went back) and outbid; later it is
            a second live process with our name, unless it is said to listen where we do.
    """

    label: str = "caxton"
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_probes: int = 3
    suspicion_mult: float = 4.0
    suspicion_max_mult: float = 6.0
    suspicion_confirmations: int = 2
    health_max: int = 7
    lag_warning_s: float = 0.25
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    gossip_packets: int = 8
    gossip_to_dead_s: float = 30.0
    retransmit_mult: float = 4.0
    push_pull_interval_s: float = 30.0
    reconnect_interval_s: float = 30.0
    reap_after_s: float = 3_600.0
    join_retry_initial_s: float = 0.5
    join_retry_max_s: float = 15.0
    leave_linger_s: float = 1.0
    stream_timeout_s: float = 10.0
    max_streams: int = 32
    max_state_bytes: int = 20 * 1024 * 1024
    max_members: int = 5_000
    max_meta_bytes: int = 512
    max_map_frame_bytes: int = 1_150
    max_rumours: int = 4_096
    max_remembered_addresses: int = 256
    max_seeds: int = 64
    max_clock_lead_s: float = 86_400.0
    duplicate_grace_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work, naming the parameter.

        Raises:
            ValueError: when a parameter is out of its range.
        """
        rules = (
            (1 <= len(self.label.encode()) <= 255, "label must have 1 to 255 bytes"),
            (0 < self.probe_timeout_s < self.probe_interval_s, "probe_timeout_s must be under the interval"),
            (self.suspicion_mult >= 1, "suspicion_mult must be at least 1"),
            (self.suspicion_max_mult >= 1, "suspicion_max_mult must be at least 1"),
            (self.indirect_probes >= 0, "indirect_probes must not be negative"),
            (self.health_max >= 0, "health_max must not be negative"),
            (self.retransmit_mult >= 1, "retransmit_mult must be at least 1"),
            (0 < self.join_retry_initial_s <= self.join_retry_max_s, "join_retry_initial_s exceeds the max"),
            (min(self.gossip_interval_s, self.push_pull_interval_s, self.reconnect_interval_s,
                 self.reap_after_s, self.stream_timeout_s) > 0, "intervals must be positive"),
            (min(self.gossip_nodes, self.gossip_packets, self.max_streams, self.max_members,
                 self.max_rumours, self.max_seeds) >= 1, "counts and caps must be at least 1"),
            (0 <= self.max_meta_bytes <= 512, "max_meta_bytes must be 0 to 512"),
            (64 <= self.max_map_frame_bytes <= 1_150, "max_map_frame_bytes must be 64 to 1150"),
        )  # fmt: skip
        for holds, message in rules:
            if not holds:
                raise ValueError(message)

    @classmethod
    def profile(cls, name: ProfileName, **changes: Any) -> "SwimConfig":
        """Return a consistent set of parameters for a kind of network.

        Args:
            name: `local` for processes on one machine, `lan` for one data centre, `wan` for
                members far apart, `edge` for two to five boxes with nobody to confirm a doubt.
            **changes: parameters to set on top of the profile.
        """
        return replace(cls(**PROFILES[name]), **changes)

    def suspicion_bounds_s(self, members: int) -> tuple[float, float]:
        """Return the shortest and the longest suspicion in a cluster of `members`."""
        shortest = self.suspicion_mult * max(1.0, math.log10(max(1, members)))
        shortest *= self.probe_interval_s
        return shortest, shortest * self.suspicion_max_mult

    def retransmissions(self, members: int) -> int:
        """Return how many times one rumour is sent in a cluster of `members`."""
        return math.ceil(self.retransmit_mult * math.ceil(math.log10(max(1, members) + 1)))


PROFILES: Final[dict[str, dict[str, Any]]] = {
    "local": {
        "probe_interval_s": 0.5,
        "probe_timeout_s": 0.2,
        "suspicion_mult": 5.0,
        "suspicion_max_mult": 2.0,
        "suspicion_confirmations": 1,
        "health_max": 3,
        "gossip_interval_s": 0.1,
        "push_pull_interval_s": 15.0,
        "reconnect_interval_s": 5.0,
        "join_retry_initial_s": 0.1,
        "join_retry_max_s": 2.0,
        "leave_linger_s": 0.4,
        "stream_timeout_s": 5.0,
    },
    "lan": {},
    "wan": {
        "probe_interval_s": 5.0,
        "probe_timeout_s": 3.0,
        "suspicion_mult": 6.0,
        "health_max": 7,
        "lag_warning_s": 1.0,
        "gossip_interval_s": 0.5,
        "gossip_nodes": 4,
        "push_pull_interval_s": 60.0,
        "reconnect_interval_s": 60.0,
        "join_retry_max_s": 60.0,
        "leave_linger_s": 3.0,
        "stream_timeout_s": 30.0,
    },
    "edge": {
        "suspicion_mult": 5.0,
        "suspicion_max_mult": 2.0,
        "suspicion_confirmations": 1,
        "health_max": 3,
        "push_pull_interval_s": 15.0,
        "reconnect_interval_s": 15.0,
        "join_retry_max_s": 30.0,
    },
}
"""What each profile changes. `lan` is the defaults. `edge` lets one confirmation shorten a
suspicion, because in three boxes there is only one other witness, and waits twice as long when
there is none."""
