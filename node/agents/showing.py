"""Shows an agent's answer while it is made, to whoever watches the message.

An answer that is judged before it counts is not shown before that: an agent with an ``output_schema`` shows
nothing. What others show is a preview. After a text that the provider has broken off, or that was said before
a tool was called, the answer begins anew, and whoever watches is told so.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from node.agents.definition import AgentDefinition
from node.llm.provider import Delta, OnDelta
from node.messaging.delivery import Delivery, Speech


def speech_for(definition: AgentDefinition, delivery: Delivery) -> AbstractContextManager[Speech | None]:
    """Where the answer of an agent is shown while it is made; nowhere where it must not be."""
    if delivery.audience is None or definition.output_schema is not None:
        return nullcontext()
    return delivery.audience.speak(definition.id, delivery)


def turn_of(speech: Speech | None, turn: int) -> OnDelta | None:
    """Takes the pieces of one turn, which begins with this call."""
    if speech is None:
        return None
    speech.begin(turn)

    def show(delta: Delta) -> None:
        if delta.anew:
            speech.begin(turn)
        speech.hear(delta.text)

    return show
