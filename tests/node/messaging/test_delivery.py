"""What a handler answers becomes a message that belongs to what it answered."""

import dataclasses

from node.messaging.delivery import Draft, compose
from node.vocabulary import Performative


def test_replying_keeps_what_belongs_together():
    class Asked:
        sender, conversation_id, reply_with, priority, protocol = "s@n", "c", "r", 7, "fipa-request"

    draft = Draft(Performative.INFORM, 1)
    reply = compose(draft, Asked, sender="a@n", identifier="i", wall_s=1.0)
    assert (reply.receiver, reply.in_reply_to, reply.priority, reply.protocol) == (
        "s@n",
        "r",
        7,
        "fipa-request",
    )
    other = compose(
        dataclasses.replace(draft, capability="x", priority=1),
        Asked,
        sender="a@n",
        identifier="i",
        wall_s=1.0,
    )
    assert (other.receiver, other.capability, other.in_reply_to, other.priority, other.protocol) == (
        None, "x", None, 1, None,
    )  # fmt: skip
    assert other.conversation_id == "c"
