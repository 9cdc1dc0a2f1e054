"""Records membership and the replicated maps: one core, because packets of the one carry the other.

The recording holds no key. What uses one is answered from the record on replay:

* a signature of this node is kept as it was made, for it is on the wire anyway;
* a packet that was opened is kept opened; one that is sealed is kept as its header, the text before it was
  sealed, and zeros where the tag would be, so that it has its length and can be read;
* a tag of a probe is kept, or whether the one that came was right;
* the rotation of the gossip keys is kept as what came of it: sealed frames, and the ids of keys.

Boot ids are kept as they were drawn; the private key of the pairs is drawn unseen. Everything else is
computed anew on replay: signatures of others and their credentials are checked again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeVar

from node.recording.chance import state_of
from node.recording.tape import CoreTape, Recorder, Tape
from node.recording.values import plain
from node.recording.vault import NotedVault, Seals, named, without_key
from swim.config import SwimConfig
from swim.events import CloseStream, Effect, Event, OpenStream, SendDatagram, SendStream
from swim.identity import ClusterAuthority, Identity
from swim.keyring_messages import Verb
from swim.messages import Address
from swim.protocol import Swim
from swim.replicated import Replicated
from swim.vault import Vault

T = TypeVar("T")

CORE: Final = "membership"
VERSION: Final = 5
"""Of the verbs and draws below; raised whenever an older recording would be understood differently."""
_QUESTION_BYTES: Final = 8

SWIM_VERBS: Final = {
    name: f"swim.{name}"
    for name in (
        "start", "join", "leave", "update_meta", "update_address", "load", "remember", "forget", "revoke",
        "set_stream_probes", "receive", "handle_timer", "loop_lagged", "stream_accepted", "stream_opened",
        "stream_failed", "stream_received", "stream_closed",
    )
}  # fmt: skip
TRAFFIC_VERBS: Final = {name: f"traffic.{name}" for name in ("fire", "ask", "collect", "answer", "set_tags")}
MAP_VERBS: Final = {
    name: f"maps.{name}"
    for name in (
        "start", "put", "put_many", "delete", "set_load", "set_roster", "observe_clock", "cluster_put",
        "cluster_delete", "admit_owner", "forget", "load_units", "events",
    )
}  # fmt: skip
"""Every method by which an owner changes a core, and under which name its calls are recorded."""
BEGIN: Final = "begin"
START_ROTATION: Final = "keys.start"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a member is built from, as far as it is no secret.

    Args:
        config: The parameters.
        name: Of the member.
        credential: What it shows.
        ca_public_key: Of the cluster's authority.
        cluster: The authority's cluster.
        address: Where it was said to be reached.
        meta: Its metadata.
        encrypted: Whether packets are sealed.
        versions: Lowest and highest protocol version it speaks.
        chance: State of the generator of membership.
        map_chance: State of the generator of the maps.
    """

    config: SwimConfig
    name: str
    credential: bytes
    ca_public_key: bytes
    cluster: str
    address: Address
    meta: bytes
    encrypted: bool
    versions: tuple[int, int]
    chance: bytes
    map_chance: bytes


def record_member(
    recorder: Recorder,
    config: SwimConfig,
    identity: Identity,
    authority: ClusterAuthority,
    *,
    address: Address,
    meta: bytes,
    chance: random.Random,
    map_chance: random.Random,
    entropy: Callable[[int], bytes],
    gossip_keys: Sequence[bytes],
    versions: tuple[int, int],
) -> tuple[Swim, Replicated]:
    """Build a member and its maps as the node does, and record everything that goes into them."""
    tape = recorder.core(CORE, VERSION)
    beginning = Beginning(
        config, identity.name, identity.credential, authority.ca_public_key, authority.cluster,
        address, meta, bool(gossip_keys), versions, state_of(chance), state_of(map_chance),
    )  # fmt: skip
    seals = Seals()
    built: list[tuple[Swim, Replicated]] = []

    def build() -> None:
        built.append(
            build_member(
                tape, beginning, authority,
                chance=chance, map_chance=map_chance, sign=identity.sign, entropy=entropy,
                gossip_keys=gossip_keys, vault=NotedVault(tape, seals, entropy),
            )
        )  # fmt: skip

    tape.step(BEGIN, lambda: beginning, build)
    swim, maps = built[0]
    _watch(tape, swim, maps, seals)
    return swim, maps


def build_member(
    tape: Tape,
    beginning: Beginning,
    authority: ClusterAuthority,
    *,
    chance: random.Random,
    map_chance: random.Random,
    sign: Callable[[bytes], bytes],
    entropy: Callable[[int], bytes],
    gossip_keys: Sequence[bytes],
    vault: Vault,
) -> tuple[Swim, Replicated]:
    """Build a member whose signatures and boot ids go through a tape."""
    identity = TapedIdentity(tape, beginning.name, beginning.credential, sign)

    def drawn(size: int) -> bytes:
        return tape.draw("entropy", size.to_bytes(2, "big"), lambda: entropy(size))

    maps = Replicated(identity, authority, rng=map_chance, entropy=drawn)
    swim = Swim(
        beginning.config,
        identity,
        authority,
        beginning.address,
        beginning.meta,
        maps,
        chance,
        entropy=drawn,
        gossip_keys=gossip_keys,
        versions=beginning.versions,
        vault=vault,
    )
    return swim, maps


def _watch(tape: CoreTape, swim: Swim, maps: Replicated, seals: Seals) -> None:
    """Record every verb from now on, and keep what comes out until the driver takes it."""
    drain_effects, drain_events = swim.effects, swim.events
    effects: list[Effect] = []
    events: list[Event] = []

    def finish(outputs: list[Any]) -> None:
        new_effects, new_events = drain_effects(), drain_events()
        outputs += outputs_of(new_effects, new_events, swim.next_timer(), seals)
        effects.extend(new_effects)
        events.extend(new_events)

    def taken(kept: list[T], drain: Callable[[], list[T]]) -> list[T]:
        found = kept + drain()  # the core has some of its own once the recording has ended
        kept.clear()
        return found

    tape.finish = finish
    setattr(swim, "effects", lambda: taken(effects, drain_effects))  # noqa: B010 - a method is replaced
    setattr(swim, "events", lambda: taken(events, drain_events))  # noqa: B010
    for target, verbs in ((swim, SWIM_VERBS), (swim.traffic, TRAFFIC_VERBS), (maps, MAP_VERBS)):
        tape.watch(target, verbs, lambda: swim.wall_offset)
    start = swim.keys.start

    def start_rotation(
        verb: Verb, key: bytes, now: float, *, deadline_s: float = 30.0, force: bool = False
    ) -> bytes:
        return tape.step(
            START_ROTATION,
            lambda: [swim.wall_offset, [verb, named(key), now], {"deadline_s": deadline_s, "force": force}],
            lambda: start(verb, key, now, deadline_s=deadline_s, force=force),
        )

    setattr(swim.keys, "start", start_rotation)  # noqa: B010


def outputs_of(
    effects: Sequence[Effect], events: Sequence[Event], due: float | None, seals: Seals
) -> list[Any]:
    """What a step has given, as it is compared: effects and events in order, and when the timer is due."""
    found: list[Any] = []
    for effect in effects:
        match effect:
            case SendDatagram(data, (host, port)):
                found.append(["datagram", host, port, seals.shown(data)])
            case SendStream(number, data):
                found.append(["send", number, seals.shown(data)])
            case OpenStream(number, (host, port)):
                found.append(["open", number, host, port])
            case CloseStream(number):
                found.append(["close", number])
    seals.clear()
    found += [["event", plain(without_key(event))] for event in events]
    found.append(["timer", due])
    return found


class TapedIdentity:
    """A node's identity whose signatures go through a tape.

    Args:
        tape: The tape.
        name: Of the node.
        credential: Certifies its key.
        sign: Signs.
    """

    def __init__(self, tape: Tape, name: str, credential: bytes, sign: Callable[[bytes], bytes]) -> None:
        self.name, self.credential = name, credential
        self._tape, self._sign = tape, sign

    def sign(self, data: bytes) -> bytes:
        """Sign ``data``."""
        question = blake2b(data, digest_size=_QUESTION_BYTES).digest()
        return self._tape.draw("sign", question, lambda: self._sign(data))
