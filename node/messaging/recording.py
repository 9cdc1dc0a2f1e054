"""Records delivery and routing, and the mailboxes: what goes into a core, what it asks, and what comes out.

Messages are told by their place in the order of acceptance, and rounds of decisions by their number. The
recording holds the messages themselves: it belongs to whoever may read the node's database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Final

from node.cluster.provider import CapabilityView, ClusterView, Minority, Provider
from node.config.model import MessagingConfig
from node.message import Message
from node.messaging.claims import Claim
from node.messaging.decisions import Changes
from node.messaging.deliveries import Deliveries
from node.messaging.letters import Letter
from node.messaging.mailboxes import Entry, Mailbox
from node.messaging.ports import Carrier, MembershipView, Time
from node.messaging.settings import Timing
from node.messaging.surroundings import Surroundings
from node.recording.chance import state_of
from node.recording.tape import CoreTape, Recorder, Tape
from node.transport.frames import DeliverItem

CORE: Final = "delivery"
VERSION: Final = 12
"""Of the verbs and draws below; raised whenever an older recording would be understood differently."""
BEGIN: Final = "build"
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the core is built from.

    Args:
        node: This node's name.
        settings: The section ``messaging``, by the names of its keys.
        timing: Times beside it.
        router_chance: State of the router's generator.
        retry_chance: State of the generator of pauses.
    """

    node: str
    settings: dict[str, Any]
    timing: Timing
    router_chance: bytes
    retry_chance: bytes


@dataclass(frozen=True, slots=True)
class Verb:
    """How a call of the core is recorded.

    Args:
        given: What of its arguments.
        shown: What of its result.
    """

    given: Callable[..., object]
    shown: Callable[[Any], object] = lambda result: result


def letter_shown(letter: Letter) -> list[object]:
    """A message as it is compared: how it stands, and on which ways."""
    routes = [route.row() for route in letter.routes.values()]
    return [letter.seq, letter.message.id, letter.ended, letter.reason, letter.deadline, routes]


def changes_shown(changes: Changes) -> list[object]:
    """A round of decisions as it is compared."""
    return [
        changes.number,
        [route.row() for route in changes.routes.values()],
        changes.events,
        [[letter.seq, letter.ended, letter.reason] for letter in changes.ended],
        [[route.letter.seq, *route.target] for route in changes.queued],
        [letter_shown(letter) for letter in changes.taken_up],
    ]


def _given_up(changes: Changes) -> list[object]:
    lost = [letter.seq for letter in changes.lost]
    return [*changes_shown(changes), lost, [[*letter_shown(each), each.sealed] for each in changes.told]]


def _prepared(
    message: Message,
    sealed: bytes,
    *,
    at: tuple[float, float],
    traceparent: str,
    hops: int,
    ttl_s: float | None,
) -> list[object]:
    del message  # it is what was sealed
    return [sealed, at, traceparent, hops, ttl_s]


def as_given(*given: object) -> list[object]:
    """All arguments of a call."""
    return list(given)


def _numbers(letters: Sequence[Letter]) -> list[int]:
    return [letter.seq for letter in letters]


def _claimed(claims: Sequence[Claim]) -> list[object]:
    return [[claim.letter.seq, *_item_shown(claim.item)] for claim in claims]


def _number(changes: Changes) -> int:
    return changes.number


VERBS: Final[dict[str, Verb]] = {
    "take_up": Verb(as_given),
    "begin": Verb(as_given),
    "prepare": Verb(_prepared, letter_shown),
    "admit": Verb(_numbers),
    "not_written": Verb(_numbers),
    "claim": Verb(_numbers, _claimed),
    "settling": Verb(as_given),
    "not_settled": Verb(as_given),
    "take_up_parked": Verb(as_given, changes_shown),
    "received": Verb(as_given),
    "granted": Verb(as_given),
    "report": Verb(as_given, changes_shown),
    "link_lost": Verb(as_given),
    "answered": Verb(as_given),
    "node_lost": Verb(as_given),
    "node_alive": Verb(as_given),
    "unreachable": Verb(as_given, changes_shown),
    "registry_changed": Verb(as_given),
    "attend": Verb(as_given, changes_shown),
    "give_up": Verb(_number, _given_up),
    "written": Verb(_number),
    "send": Verb(_number),
    "pump": Verb(as_given),
    "pump_all": Verb(as_given),
}
"""Every method by which the outbox changes the core."""


def record_deliveries(
    recorder: Recorder, node: str, settings: MessagingConfig, timing: Timing, around: Surroundings
) -> Deliveries:
    """Build the core as the outbox does, and record everything that goes into it."""
    tape = recorder.core(CORE, VERSION)
    beginning = Beginning(
        node,
        settings.model_dump(by_alias=True),
        timing,
        state_of(around.router_chance),
        state_of(around.retry_chance),
    )
    core = Deliveries(node=node, settings=settings, timing=timing, around=taped(tape, around))
    tape.step(BEGIN, lambda: beginning, lambda: None)
    use_links = core.use_links
    setattr(core, "use_links", lambda links: use_links(TapedLinks(tape, links)))  # noqa: B010 - replaced
    for name, verb in VERBS.items():
        setattr(core, name, partial(recorded, tape, name, verb, getattr(core, name)))
    return core


def recorded(
    tape: CoreTape, name: str, verb: Verb, call: Callable[..., Any], *args: Any, **named: Any
) -> Any:
    """Call a verb of a core, on a tape."""
    return tape.step(name, lambda: verb.given(*args, **named), lambda: call(*args, **named), verb.shown)


def taped(tape: Tape, around: Surroundings) -> Surroundings:
    """Surroundings whose answers go through a tape, and who note what they are told."""
    return replace(
        around,
        time=TapedTime(tape, around.time),
        registry=TapedRegistry(tape, around.registry),
        membership=TapedMembership(tape, around.membership),
        new_id=lambda: tape.draw("id", b"", around.new_id),
        deliver_locally=partial(_delivered_locally, tape, around),
        on_arrival=partial(_arrived, tape, around),
        on_end=partial(_ended, tape, around),
    )


def _delivered_locally(tape: Tape, around: Surroundings, item: DeliverItem, message: Message) -> None:
    tape.emit("deliver here", *_item_shown(item))
    around.deliver_locally(item, message)


def _arrived(tape: Tape, around: Surroundings, message_id: str) -> None:
    tape.emit("arrived", message_id)
    around.on_arrival(message_id)


def _ended(tape: Tape, around: Surroundings, letter: Letter) -> None:
    tape.emit("ended", letter.seq, letter.message.id, letter.ended, letter.reason)
    around.on_end(letter)


def _item_shown(item: DeliverItem) -> list[object]:
    """A transmission as it is compared; the message itself is in the recording where it was accepted."""
    return [item.message_id, item.envelope, blake2b(item.sealed, digest_size=_DIGEST_BYTES).digest()]


class TapedTime:
    """Time that goes through a tape.

    Args:
        tape: The tape.
        time: Tells it.
    """

    def __init__(self, tape: Tape, time: Time) -> None:
        self._tape, self._time = tape, time

    def now(self) -> float:
        """Monotonic seconds."""
        return self._tape.draw("now", b"", self._time.now)

    def wall(self) -> float:
        """Unix seconds."""
        return self._tape.draw("wall", b"", self._time.wall)


class TapedRegistry:
    """What the registry answers, through a tape; see ``node.cluster.provider.CapabilityView``."""

    def __init__(self, tape: Tape, registry: CapabilityView) -> None:
        self._tape, self._registry = tape, registry

    def version(self, wanted: str) -> int:
        """What changes with the answers about a capability or an agent."""
        return self._tape.draw("version", wanted.encode(), partial(self._registry.version, wanted))

    def providers(self, capability: str) -> Sequence[Provider]:
        """All that offer ``capability``."""
        found = partial(self._registry.providers, capability)
        return self._tape.draw("providers", capability.encode(), found)

    def instances(self, agent: str) -> Sequence[Provider]:
        """All instances of an agent."""
        return self._tape.draw("instances", agent.encode(), partial(self._registry.instances, agent))

    def minority(self, capability: str) -> Minority:
        """The policy of a capability for minorities."""
        return self._tape.draw("minority", capability.encode(), partial(self._registry.minority, capability))

    def topics_version(self) -> int:
        """What changes with the subscriptions to topics."""
        return self._tape.draw("topics version", b"", self._registry.topics_version)

    def subscribers(self, topic: str) -> Sequence[Provider]:
        """All that subscribe to a topic."""
        return self._tape.draw("subscribers", topic.encode(), partial(self._registry.subscribers, topic))

    def expects(self, wanted: str) -> bool:
        """Whether somebody who is away offers it."""
        return self._tape.draw("expects", wanted.encode(), partial(self._registry.expects, wanted))

    def related(self, capability: str) -> Sequence[tuple[str, int]]:
        """Capabilities with a name like this one."""
        found = partial(self._registry.related, capability)
        return self._tape.draw("related", capability.encode(), found)


class TapedMembership:
    """Who is there, through a tape; see ``node.messaging.ports.MembershipView``."""

    def __init__(self, tape: Tape, membership: MembershipView) -> None:
        self._tape, self._membership = tape, membership

    def is_alive(self, node: str) -> bool:
        """Whether a node is alive."""
        return self._tape.draw("is alive", node.encode(), partial(self._membership.is_alive, node))

    def view(self) -> ClusterView:
        """The cluster as it looks."""
        return self._tape.draw("view", b"", self._membership.view)


class TapedLinks:
    """What links take, through a tape; see ``node.messaging.ports.Carrier``."""

    def __init__(self, tape: Tape, links: Carrier) -> None:
        self._tape, self._links = tape, links

    def is_ready(self, peer: str) -> bool:
        """Whether the link takes a message now."""
        return self._tape.draw("is ready", peer.encode(), partial(self._links.is_ready, peer))

    def deliver(self, peer: str, items: Sequence[DeliverItem]) -> int:
        """Hand over messages; returns how many were taken."""
        taken = self._tape.draw("takes", peer.encode(), partial(self._links.deliver, peer, items))
        for item in items[:taken]:
            self._tape.emit("deliver", peer, *_item_shown(item))
        return taken

    def ensure(self, peer: str) -> None:
        """Open a link if there is none."""
        self._tape.emit("want a link", peer)
        self._links.ensure(peer)


MAILBOX: Final = "mailbox"
MAILBOX_VERSION: Final = 2


class RecordedMailbox(Mailbox):
    """A mailbox with room for the tape that its verbs are recorded on."""


def record_mailbox(recorder: Recorder, agent: str, capacity: int) -> Mailbox:
    """Build an agent's mailbox, and record everything that goes into it."""
    tape = recorder.core(f"{MAILBOX}:{agent}", MAILBOX_VERSION)
    mailbox = RecordedMailbox(capacity)
    tape.finish = partial(mailbox_outputs, mailbox)
    tape.step(BEGIN, lambda: capacity, lambda: None)
    verbs = {
        "offer": Verb(lambda entry: [entry_given(entry)]),
        "refill": Verb(lambda entries, *, exhausted: [list(map(entry_given, entries)), exhausted]),
        "raise_epoch": Verb(as_given),
        "take": Verb(as_given, taken_shown),
        "done": Verb(lambda entry: [entry.seq]),
        "forget": Verb(lambda entry: [entry.seq]),
    }
    for name, verb in verbs.items():
        setattr(mailbox, name, partial(recorded, tape, name, verb, getattr(mailbox, name)))
    return mailbox


def entry_given(entry: Entry) -> list[object]:
    """Of a message in a mailbox, what the mailbox looks at."""
    message = entry.message
    return [entry.seq, message.conversation_id, message.sender, message.priority, entry.epoch]


def taken_shown(entry: Entry | None) -> object:
    """What a mailbox gave, as it is compared."""
    return None if entry is None else [entry.seq, entry.epoch, entry.rank]


def mailbox_outputs(mailbox: Mailbox, outputs: list[Any]) -> None:
    """How a mailbox stands, as it is compared after each verb."""
    outputs.append(["stands", len(mailbox), mailbox.running, mailbox.handled, mailbox.spilled])
