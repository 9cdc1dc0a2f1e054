"""The receiver's core on replay: the production core, with the record in the place of storage and agents."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from node.config.model import MessagingConfig
from node.message import Envelope
from node.messaging.arrivals import Arrivals, Batch, Ended, Receivers
from node.messaging.receiver import ArrivalAction, ItemState
from node.messaging.recording_inbox import BEGIN, CORE, VERBS, VERSION, Beginning, taped
from node.recording.values import UnknownValue
from node.transport.frames import DeliverItem, DeliveryKey
from simulations.recording.deliveries import Unasked
from simulations.recording.tape import ReplayTape

CLASSES: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (ArrivalAction, Beginning, DeliverItem, DeliveryKey, Ended, Envelope, ItemState)
}
"""What arguments and answers may be built of."""


class ArrivalsReplay:
    """What one node received, again.

    Args:
        tape: Answers it.
    """

    name = CORE
    version = VERSION

    def __init__(self, tape: ReplayTape) -> None:
        self.tape = tape
        self._core: Arrivals | None = None
        self._batches: dict[int, Batch] = {}

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
        """Add nothing: the core leaves nothing behind that its verbs do not return or tell."""

    def _call(self, core: Arrivals, verb: str, arguments: Any) -> Any:
        match verb, arguments:
            case "judge", (str() as origin, tuple(items)):
                batch = core.judge(origin, [(item, None) for item in items])
                self._batches[batch.number] = batch
                return batch
            case "stored", (int() as number, tuple(answers)) if number in self._batches:
                batch = self._batches.pop(number)
                if len(batch.items) != len(answers):
                    raise UnknownValue("other deliveries were stored than are to be stored now")
                for item, (action, seq, state, reason) in zip(batch.items, answers, strict=True):
                    item.action, item.seq, item.state, item.reason = action, seq, state, reason
                return core.stored(batch)
            case _, tuple(given) if verb not in {"judge", "stored"}:
                return getattr(core, verb)(*given)
        raise UnknownValue(f"this version cannot do {verb!r} with what the recording has for it")

    def _begin(self, beginning: Any) -> None:
        if not isinstance(beginning, Beginning) or self._core is not None:
            raise UnknownValue("a core is built once, from what it was built from")
        try:
            settings = MessagingConfig.model_validate(beginning.settings)
        except ValidationError as error:
            raise UnknownValue(f"the section messaging was another one: {error}") from None
        nobody: Any = Unasked()
        around = Receivers(
            time=nobody,
            accepts=nobody.told,
            concerns=nobody.told,
            owes=nobody.told,
            answer=nobody.told,
            offer=nobody.told,
            raise_epoch=nobody.told,
            tell=nobody.told,
            owe=nobody.told,
            on_reply=nobody.told,
        )
        self._core = Arrivals(node=beginning.node, settings=settings, around=taped(self.tape, around))
