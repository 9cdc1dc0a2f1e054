"""Lets an agent ask others: each capability in its ``requires`` becomes a tool of the model.

The question is an ordinary REQUEST over the bus, one hop further than the message being handled, so that a
ring of agents that ask each other ends at the hop limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from node.environment import Environment
from node.errors import ToolFailed
from node.llm.provider import ToolSpec
from node.message import Message
from node.messaging.settings import HOP_LIMIT
from node.vocabulary import Performative

_PREFIX: Final = "ask_"


class Requester(Protocol):
    """What asking needs of the bus."""

    async def request(
        self,
        message: Message,
        *,
        timeout_s: float,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
    ) -> Message:
        """Send and wait for the reply."""
        ...


class Asker:
    """The questions one agent may ask.

    Args:
        sender: The agent's own address.
        requires: The capabilities it may ask for.
        bus: Carries the questions.
        environment: Makes identifiers, tells time.
    """

    def __init__(
        self,
        *,
        sender: str,
        requires: tuple[str, ...],
        bus: Requester,
        environment: Environment,
    ) -> None:
        self._sender = sender
        self._bus = bus
        self._environment = environment
        self._capabilities = {question_tool(capability): capability for capability in requires}

    def specs(self) -> list[ToolSpec]:
        """The questions as tools."""
        return question_specs(tuple(self._capabilities.values()))

    def __contains__(self, tool: str) -> bool:
        return tool in self._capabilities

    async def ask(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        about: Message,
        hops: int,
        timeout_s: float,
        traceparent: str,
    ) -> Any:
        """Ask, and give the content of the answer.

        Raises:
            ToolFailed: too many hops, wrong arguments, or the other agent failed.
            CaxtonError: whatever the bus raises when nobody answers.
        """
        if hops >= HOP_LIMIT:
            raise ToolFailed("agents are asking each other in a ring", why=f"{HOP_LIMIT} hops are the limit")
        if set(arguments) - {"content", "files"} or "content" not in arguments:
            raise ToolFailed(
                f"the arguments of the tool {tool!r} are not valid", why="give content and files"
            )
        named = arguments.get("files", [])
        attached = [a.name for a in about.attachments]
        if not isinstance(named, list) or any(name not in attached for name in named):
            raise ToolFailed(
                f"the arguments of the tool {tool!r} are not valid",
                why="files must be a list of the message's attachments: " + (", ".join(attached) or "none"),
            )
        files = tuple(a for a in about.attachments if a.name in named)
        identifier = self._environment.new_id()
        question = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender=self._sender,
            capability=self._capabilities[tool],
            content=arguments["content"],
            conversation_id=about.conversation_id,
            reply_with=identifier,
            protocol="fipa-request",
            timestamp_s=self._environment.clock.wall(),
            attachments=files,
        )
        reply = await self._bus.request(
            question, timeout_s=timeout_s, traceparent=traceparent, hops=hops + 1, cause=about.id
        )
        if reply.performative is not Performative.INFORM:
            raise ToolFailed(
                f"{reply.sender} answered {reply.performative.value}", why=str(reply.content)[:500]
            )
        return {"from": reply.sender, "content": reply.content}


def question_tool(capability: str) -> str:
    """Name of the tool that asks for a capability."""
    return _PREFIX + capability.replace("-", "_").replace(":", "_")


def question_specs(requires: Sequence[str]) -> list[ToolSpec]:
    """The questions for capabilities, as tools."""
    return [
        ToolSpec(question_tool(wanted), f"Ask another agent for its capability {wanted}.", _SCHEMA)
        for wanted in requires
    ]


_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "content": {"description": "What to ask, as text or JSON.", "x-content": "any"},
        "files": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Names of attached files to pass on.",
            "x-files": True,
        },
    },
    "required": ["content"],
}
