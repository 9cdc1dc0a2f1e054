"""Delivery and routing on replay: the production core, with the record in the place of its surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from node.cluster.provider import ClusterView, Minority, Provider
from node.config.model import MessagingConfig
from node.errors import CaxtonError
from node.message import Message
from node.messaging.decisions import Changes
from node.messaging.deliveries import Deliveries
from node.messaging.letters import Letter
from node.messaging.recording import BEGIN, CORE, VERBS, VERSION, Beginning, TapedLinks, taped
from node.messaging.settings import Timing
from node.messaging.surroundings import Surroundings
from node.recording.chance import generator
from node.recording.values import UnknownValue
from node.storage.backlog import Parked, Sum
from node.storage.outbox import OutboxRow, RouteRow
from node.transport.frames import DeliverItem, DeliveryKey, Grant, KeyState, Outcome
from simulations.recording.tape import ReplayTape

CLASSES: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        Beginning,
        ClusterView,
        DeliveryKey,
        Grant,
        KeyState,
        OutboxRow,
        Outcome,
        Parked,
        Provider,
        RouteRow,
        Sum,
        Timing,
    )
}
"""What arguments and answers may be built of."""


class DeliveriesReplay:
    """The deliveries of one node that does again what it did.

    Args:
        tape: Answers them.
    """

    name = CORE
    version = VERSION

    def __init__(self, tape: ReplayTape) -> None:
        self.tape = tape
        self._core: Deliveries | None = None
        self._letters: dict[int, Letter] = {}
        self._changes: dict[int, Changes] = {}

    def do(self, verb: str, arguments: Any) -> Any:
        """Call a verb as it was called; return what of its result is compared.

        Raises:
            UnknownValue: this version has no such verb, or its arguments are others.
        """
        if verb == BEGIN:
            self._begin(arguments)
            return None
        if self._core is None or verb not in VERBS:
            raise UnknownValue(f"this version cannot do {verb!r}")
        return VERBS[verb].shown(self._call(self._core, verb, arguments))

    def finish(self, outputs: list[Any]) -> None:
        """Add nothing: the core leaves nothing behind that its verbs do not return."""

    def _call(self, core: Deliveries, verb: str, arguments: Any) -> Any:
        match verb, arguments:
            case "prepare", (bytes() as sealed, (float(), float()) as at, traceparent, hops, ttl_s):
                letter = core.prepare(
                    Message.unseal(sealed), sealed, at=at, traceparent=traceparent, hops=hops, ttl_s=ttl_s
                )
                self._letters[letter.seq] = letter
                return letter
            case (("admit" | "not_written" | "claim"), tuple(numbers)):
                return getattr(core, verb)(self._prepared(verb, numbers))
            case "take_up_parked", (tuple(parked),):
                return self._kept(core.take_up_parked(parked))
            case "report", (str() as peer, tuple(states)):
                return self._kept(core.report(peer, states))
            case (("unreachable" | "attend"), tuple(given)):
                return self._kept(getattr(core, verb)(*given))
            case "give_up", int() as number:
                return core.give_up(self._known(self._changes.get(number)))
            case "written", int() as number:
                return core.written(self._known(self._changes.get(number)))
            case "send", int() as number:
                return core.send(self._known(self._changes.pop(number, None)))
            case _, tuple(given):
                return getattr(core, verb)(*given)
        raise UnknownValue(f"this version cannot do {verb!r} with what the recording has for it")

    def _prepared(self, verb: str, numbers: tuple[Any, ...]) -> list[Letter]:
        """Prepared messages by number; those that are claimed are admitted, or not written, later."""
        letters = [self._known(self._letters.get(number)) for number in numbers]
        if verb != "claim":
            for number in numbers:
                del self._letters[number]
        return letters

    def _kept(self, changes: Changes) -> Changes:
        self._changes[changes.number] = changes
        return changes

    @staticmethod
    def _known(found: Any) -> Any:
        if found is None:
            raise UnknownValue("it is about something that this replay has not come by")
        return found

    def _begin(self, beginning: Any) -> None:
        if not isinstance(beginning, Beginning) or self._core is not None:
            raise UnknownValue("a core is built once, from what it was built from")
        try:
            settings = MessagingConfig.model_validate(beginning.settings)
        except ValidationError as error:
            raise UnknownValue(f"the section messaging was another one: {error}") from None
        nobody: Any = Unasked()
        around = Surroundings(
            time=nobody,
            registry=nobody,
            membership=nobody,
            new_id=nobody.new_id,
            router_chance=generator(beginning.router_chance),
            retry_chance=generator(beginning.retry_chance),
            deliver_locally=nobody.told,
            on_arrival=nobody.told,
            on_end=nobody.told,
        )
        core = Deliveries(
            node=beginning.node, settings=settings, timing=beginning.timing, around=taped(self.tape, around)
        )
        core.use_links(TapedLinks(self.tape, nobody))
        self._core = core


class Unasked:
    """Stands where the node was: the record answers in its place, and what it is told goes nowhere."""

    def now(self) -> float:
        """Not asked."""
        raise CaxtonError("the record answers this")

    wall = now

    def new_id(self) -> str:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def providers(self, capability: str) -> list[Provider]:
        """Not asked."""
        raise CaxtonError("the record answers this")

    instances = related = subscribers = providers

    def version(self, wanted: str) -> int:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def minority(self, capability: str) -> Minority:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def topics_version(self) -> int:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def view(self) -> ClusterView:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def expects(self, wanted: str) -> bool:
        """Not asked."""
        raise CaxtonError("the record answers this")

    is_alive = is_ready = expects

    def deliver(self, peer: str, items: Sequence[DeliverItem]) -> int:
        """Not asked."""
        raise CaxtonError("the record answers this")

    def ensure(self, peer: str) -> None:
        """Told a link is wanted."""

    def told(self, *_: object) -> None:
        """Told something."""
