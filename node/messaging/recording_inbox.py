"""Records the receiver's core: deliveries that arrive, what storage says of them, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from node.config.model import MessagingConfig
from node.message import Message
from node.messaging.arrivals import Arrivals, Arrived, Batch, Receivers
from node.messaging.mailboxes import Entry
from node.messaging.recording import TapedTime, Verb, as_given, recorded
from node.recording.tape import Recorder, Tape
from node.transport.frames import DeliveryKey, Outcome

CORE: Final = "arrivals"
VERSION: Final = 9
"""Of the verbs and draws below; raised whenever an older recording would be understood differently."""
BEGIN: Final = "build"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the core is built from.

    Args:
        node: This node's name.
        settings: The section ``messaging``, by the names of its keys.
    """

    node: str
    settings: dict[str, Any]


def batch_shown(batch: Batch) -> list[object]:
    """A judged frame as it is compared: what is to be stored, and what is refused."""
    items = [[item.row._replace(sealed=b""), item.kept] for item in batch.items]
    return [batch.number, items, batch.outcomes]


def answers_of(batch: Batch) -> list[object]:
    """What storage said of each delivery of a frame."""
    return [batch.number, [[item.action, item.seq, item.state, item.reason] for item in batch.items]]


def _arrived(origin: str, arrived: Sequence[Arrived]) -> list[object]:
    return [origin, [item for item, _ in arrived]]


VERBS: Final[dict[str, Verb]] = {
    "begin": Verb(as_given),
    "judge": Verb(_arrived, batch_shown),
    "stored": Verb(answers_of),
    "gave_back": Verb(as_given),
    "ended": Verb(as_given),
    "origin_lost": Verb(as_given),
    "origin_back": Verb(as_given),
    "watermark": Verb(as_given),
    "forgot": Verb(as_given),
    "filled": Verb(as_given),
}
"""Every method by which the inbox changes the core."""


def record_arrivals(recorder: Recorder, node: str, settings: MessagingConfig, around: Receivers) -> Arrivals:
    """Build the core as the inbox does, and record everything that goes into it."""
    tape = recorder.core(CORE, VERSION)
    beginning = Beginning(node, settings.model_dump(by_alias=True))
    built: list[Arrivals] = []

    def build() -> None:
        built.append(Arrivals(node=node, settings=settings, around=taped(tape, around)))

    tape.step(BEGIN, lambda: beginning, build)
    core = built[0]
    for name, verb in VERBS.items():
        setattr(core, name, partial(recorded, tape, name, verb, getattr(core, name)))
    return core


def taped(tape: Tape, around: Receivers) -> Receivers:
    """Surroundings whose answers go through a tape, and who note what they are told."""

    def accepts(agent: str) -> str:
        return tape.draw("accepts", agent.encode(), lambda: around.accepts(agent))

    def concerns(message: Message) -> bool:
        return tape.draw("concerns", message.id.encode(), lambda: around.concerns(message))

    def owes(origin: str, message_id: str, target: str) -> bool:
        return tape.draw("owes", message_id.encode(), lambda: around.owes(origin, message_id, target))

    def answer(message: Message) -> None:
        tape.emit("answer", message.id)
        around.answer(message)

    def offer(agent: str, entries: Sequence[Entry]) -> None:
        tape.emit(
            "offer", agent, [[each.seq, each.message.id, each.epoch, each.deadline] for each in entries]
        )
        around.offer(agent, entries)

    def raise_epoch(agent: str, seq: int, epoch: int) -> None:
        tape.emit("raise epoch", agent, seq, epoch)
        around.raise_epoch(agent, seq, epoch)

    def tell(node: str, received: list[DeliveryKey], outcomes: list[Outcome]) -> None:
        tape.emit("tell", node, received, outcomes)
        around.tell(node, received, outcomes)

    def owe(origin: str, outcome: Outcome, replies: Sequence[str]) -> None:
        tape.emit("owe", origin, outcome, list(replies))
        around.owe(origin, outcome, replies)

    def on_reply(quoted: str, responder: str) -> None:
        tape.emit("first reply", quoted, responder)
        around.on_reply(quoted, responder)

    return Receivers(
        time=TapedTime(tape, around.time),
        accepts=accepts,
        concerns=concerns,
        owes=owes,
        answer=answer,
        offer=offer,
        raise_epoch=raise_epoch,
        tell=tell,
        owe=owe,
        on_reply=on_reply,
    )
