"""The tools of one configured agent: what its model is shown of them, and how its calls are made.

A call that goes wrong is told to the model. One that an operator must approve first comes back as what has to
be approved, and has not been made; whether it must, the tool host says, and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from node.agents.ask import Asker
from node.agents.behalf import caller
from node.agents.definition import AgentDefinition
from node.agents.journal import Journal
from node.agents.prompt import tool_text
from node.errors import CaxtonError
from node.llm.provider import ChatMessage, ToolCall, ToolSpec
from node.messaging.delivery import Delivery
from node.tools.approval import ApprovalNeeded, Binding
from node.tools.host import CallContext, ToolHost

_CONCURRENT_TOOLS: Final = 3


class Toolbelt:
    """See the module's docstring.

    Args:
        definition: What the agent file says.
        tools: Where they run; which the agent may see is looked up anew for each message.
        asker: Asks other agents.
        journal: Where calls are noted.
        workspace: The workspace that the agent is deployed in.
        ask_limit_s: The longest wait for another agent, in seconds.
    """

    def __init__(
        self,
        definition: AgentDefinition,
        *,
        tools: ToolHost,
        asker: Asker,
        journal: Journal,
        workspace: str,
        ask_limit_s: Callable[[Delivery], float],
    ) -> None:
        self._definition = definition
        self._tools = tools
        self._asker = asker
        self._journal = journal
        self._workspace = workspace
        self._ask_limit_s = ask_limit_s

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools of this moment: those of other programs come and go with their servers."""
        found = self._tools.visible(self._definition.tools, self._definition.restricted_tools)
        specs = [ToolSpec(tool.name, tool.description, tool.input_schema) for tool in found]
        return (*specs, *self._asker.specs())

    async def call_all(
        self,
        calls: Sequence[ToolCall],
        results: list[ChatMessage | None],
        delivery: Delivery,
        traceparent: str,
    ) -> dict[int, ApprovalNeeded]:
        """Call the tools of one turn that have no result yet, a few at once; results keep their places.

        Returns:
            By their place, those that an operator must approve first; they have not been called.
        """
        width = self._definition.setting("performance", "concurrent_tools", _CONCURRENT_TOOLS)
        limiter = trio.Semaphore(width)
        needed: dict[int, ApprovalNeeded] = {}

        async def call(index: int, wanted: ToolCall) -> None:
            async with limiter:
                result = await self.call(wanted, delivery, traceparent)
            if isinstance(result, ApprovalNeeded):
                needed[index] = result
            else:
                results[index] = result

        async with trio.open_nursery() as nursery:
            for index, wanted in enumerate(calls):
                if results[index] is None:
                    nursery.start_soon(call, index, wanted)
        return needed

    async def call(
        self, call: ToolCall, delivery: Delivery, traceparent: str, approved: Binding | None = None
    ) -> ChatMessage | ApprovalNeeded:
        """Make one call, which may be approved."""
        timeout_s = self._definition.setting("resource_limits", "tool_call_timeout")
        if call.malformed:
            self._journal.log("warning", f"tool {call.name} not called: {call.malformed}")
            return ChatMessage("tool", f"{call.malformed}; call it again", call=call, is_error=True)
        try:
            if call.name in self._asker:
                result = await self._asker.ask(
                    call.name,
                    call.arguments,
                    about=delivery.message,
                    hops=delivery.hops,
                    timeout_s=self._ask_limit_s(delivery),
                    traceparent=traceparent,
                )
            else:
                context = CallContext(
                    agent=self._definition.id,
                    granted=self._definition.tools,
                    restricted=self._definition.restricted_tools,
                    files={a.name: a.data for a in delivery.message.attachments},
                    caller=caller(self._definition, self._workspace, delivery.message),
                    traceparent=traceparent,
                    timeout_s=timeout_s,
                    note=lambda text: self._journal.log("info", f"tool {call.name} {text}"),
                    marked=self._definition.setting("security", "require_approval", ()),
                    approved=approved,
                )
                result = await self._tools.call(call.name, call.arguments, context)
        except ApprovalNeeded as needed:
            return needed
        except CaxtonError as error:
            self._journal.log("warning", f"tool {call.name}: {error}")
            return ChatMessage("tool", str(error), call=call, is_error=True)
        self._journal.log("debug", f"tool {call.name} answered")
        return ChatMessage("tool", tool_text(result), call=call, result=result)
