"""What a guest may ask for beyond its sandbox and has to wait for: the memory of agents, and tools.

Theory of operation. A guest runs on a worker thread; the memory and the tools live on the event loop. So such
a call waits: the loop does the work in the task that waits for the guest, and who cancels that task cancels
the work. Waiting is not the guest's own time (it executes nothing) and has a limit of its own over a whole
call. What a guest may ask for stands in its agent file and nowhere else: tools go through the same host, with
the same checks, as those of agents that a model answers for; the memory is asked as the viewer the agent is.

A deterministic agent must not depend on what others have stored, and a job that runs on the event loop itself
cannot wait for it: both are told that there is nothing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import trio

from node.agents.behalf import caller
from node.agents.definition import AgentDefinition
from node.agents.journal import Journal
from node.agents.wasm.calls import Call, Progress
from node.agents.wasm.failure import GuestFailed, Kind, NotDone
from node.agents.wasm.manifest import memory_scopes
from node.agents.wasm.policy import WasmPolicy
from node.environment import CannotWait, Environment
from node.errors import CaxtonError, MemoryLimitExceeded
from node.memory.guard import TEXT_BYTES_LIMIT, refusal
from node.memory.model import NAME_LIMIT, EntityDraft, ObservationDraft, Provenance, Realm, Scope
from node.memory.question import Question
from node.memory.room import MemoryRoom
from node.memory.scopes import Viewer
from node.tools.host import CallContext, ToolHost

WAIT_LIMIT_S: Final = 10.0
"""Longest that one call of a guest waits for the memory and for tools, all together, in seconds."""
MEMORY_CALLS_LIMIT: Final = 32
"""Most searches and stores while handling one message."""
TEXTS_LIMIT: Final = 50
"""Most texts of one search."""
TEXTS_LIMIT_BYTES: Final = 256 * 1024
"""Most bytes of the texts of one search; the last that do not fit are left out."""
QUERY_LIMIT_BYTES: Final = 8 * 1024
"""Longest query."""
CONTENT_LIMIT_BYTES: Final = TEXT_BYTES_LIMIT
"""Longest text that is stored."""
NAME_LIMIT_BYTES: Final = 256
"""Longest name of a tool."""
ARGUMENTS_LIMIT_BYTES: Final = 256 * 1024
"""Largest arguments of a tool, as JSON."""
TYPE: Final = "note"
"""Type of the entity under which an agent's texts are stored."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outside:
    """What lies beyond the sandboxes of one agent.

    Args:
        definition: What its agent file grants.
        policy: Its bounds.
        workspace: The workspace it is deployed in; empty for none.
        environment: Clock and workers.
        tools: The tool host.
        memory: The node's memory; None where there is none.
        journal: The agent's log.
    """

    definition: AgentDefinition
    policy: WasmPolicy
    workspace: str
    environment: Environment
    tools: ToolHost
    memory: MemoryRoom | None
    journal: Journal

    def errands(self, call: Call, progress: Progress) -> Errands | None:
        """What one call may ask for; None for a deterministic agent.

        Args:
            call: The call.
            progress: Where it is noted that the guest waits.
        """
        return None if self.policy.deterministic else Errands(self, call, progress)

    async def search(self, query: str, limit: int) -> list[str]:
        """The texts that fit a query best, of the scopes that are granted."""
        store = await self._room().existing()
        if store is None:
            return []
        scopes, _ = memory_scopes(self.definition)
        question = Question(query, limit=min(limit, TEXTS_LIMIT))
        found = await store.search(self._viewer(*map(Scope.parse, scopes)), question)
        texts: list[str] = []
        room = TEXTS_LIMIT_BYTES
        for observation in (each for hit in found.hits for each in hit.entity.observations):
            room -= len(observation.text.encode())
            if len(texts) == question.limit or room < 0:
                break
            texts.append(observation.text)
        return texts

    async def store(self, content: str, call: Call) -> str:
        """Store a text in the scope that is granted; its id."""
        why = refusal(content)
        if why is not None:
            raise NotDone("invalid", f"this cannot be remembered: {why}")
        memory = await self._room().store()
        scope = Scope.parse(self.definition.memory_scope)
        agent = self.definition.id
        owner = {Scope.AGENT: agent, Scope.WORKSPACE: self.workspace, Scope.GLOBAL: ""}[scope]
        draft = EntityDraft(f"{agent}: notes"[:NAME_LIMIT], TYPE, (ObservationDraft(content),))
        message = call.message
        source = (
            Provenance(agent) if message is None else Provenance(agent, message.conversation_id, message.id)
        )
        [stored] = await memory.remember(self._viewer(scope), Realm(scope, owner), [draft], source=source)
        return stored.observation_ids[0]

    async def call(self, name: str, arguments: dict[str, Any], call: Call) -> str:
        """Call a tool; its result as JSON."""
        message = call.message
        context = CallContext(
            agent=self.definition.id,
            granted=self.definition.tools,
            restricted=self.definition.restricted_tools,
            files={} if message is None else {a.name: a.data for a in message.attachments},
            caller=caller(self.definition, self.workspace, message),
            traceparent=call.traceparent,
            timeout_s=self.definition.setting("resource_limits", "tool_call_timeout"),
            note=lambda text: self.journal.log("info", f"tool {name} {text}"),
            marked=self.definition.setting("security", "require_approval", ()),
        )
        result = await self.tools.call(name, arguments, context)
        self.journal.log("debug", f"tool {name} answered")
        return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace").decode()

    def _room(self) -> MemoryRoom:
        if self.memory is None:
            raise NotDone("unavailable", "this node has no memory")
        return self.memory

    def _viewer(self, *scopes: Scope) -> Viewer:
        return Viewer(self.definition.id, (self.workspace,) if self.workspace else (), scopes=scopes)


class Errands:
    """What one call of a guest asks for; used on the thread that the guest runs on.

    Args:
        outside: What lies there.
        call: The call.
        progress: Where it is noted that the guest waits.
    """

    def __init__(self, outside: Outside, call: Call, progress: Progress) -> None:
        self._outside = outside
        self._call = call
        self._progress = progress
        self._memory_calls = self._tool_calls = 0

    def search(self, query: str, limit: int) -> list[str]:
        """Texts of the memory, the best first.

        Raises:
            NotDone: the memory cannot be searched, or not for this.
            GuestFailed: there were too many searches and stores.
        """
        self._count_memory()
        if len(query.encode()) > QUERY_LIMIT_BYTES:
            raise NotDone("invalid", f"the query has more than {QUERY_LIMIT_BYTES:,} bytes")
        return self._wait("the memory", lambda: self._outside.search(query, limit))

    def store(self, content: str) -> str:
        """Store a text; returns its id.

        Raises:
            NotDone: it cannot be stored.
            GuestFailed: there were too many searches and stores.
        """
        self._count_memory()
        return self._wait("the memory", lambda: self._outside.store(content, self._call))

    def call(self, name: str, arguments: str) -> str:
        """Call a tool with arguments as JSON; its result as JSON.

        Raises:
            NotDone: it is not granted, the arguments do not fit, or it has failed.
            GuestFailed: there were too many calls of tools.
        """
        self._tool_calls += 1
        limit = self._outside.policy.tool_calls
        if self._tool_calls > limit:
            raise GuestFailed("tool_calls", f"more than {limit} tool calls for one message")
        if len(arguments.encode()) > ARGUMENTS_LIMIT_BYTES or len(name.encode()) > NAME_LIMIT_BYTES:
            raise NotDone("invalid", "the name or the arguments of the tool are too long")
        try:
            found = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise NotDone("invalid", "the arguments are not JSON") from None
        if not isinstance(found, dict):
            raise NotDone("invalid", "the arguments are no JSON object")
        return self._wait(f"the tool {name[:80]!r}", lambda: self._outside.call(name, found, self._call))

    def _count_memory(self) -> None:
        self._memory_calls += 1
        if self._memory_calls > MEMORY_CALLS_LIMIT:
            raise GuestFailed("memory_calls", f"more than {MEMORY_CALLS_LIMIT} memory calls for one message")

    def _wait(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Have the event loop do ``work``, and say why not in words that the guest can use."""
        environment, progress = self._outside.environment, self._progress
        clock = environment.clock

        async def bounded() -> T:
            told = NotDone("unavailable", f"one call waits for {WAIT_LIMIT_S:g} s at most")
            try:
                with progress.waiting(clock.now), clock.move_on_after(WAIT_LIMIT_S - progress.waited_s):
                    return await work()
            except NotDone as error:
                told = error
            except CaxtonError as error:
                told = NotDone(_kind(error), str(error))
            self._outside.journal.log("warning", f"{what}: {told.reason}")
            raise told

        try:
            return environment.workers.wait(bounded)
        except CannotWait:
            raise NotDone("unavailable", f"{what}: guests run on the event loop here") from None
        except trio.Cancelled:  # of the task that waits for this thread, which goes on with it
            raise GuestFailed("cancelled", f"nobody waits for the call that asked for {what}") from None


def _kind(error: CaxtonError) -> Kind:
    if isinstance(error, MemoryLimitExceeded):
        return "no-room"
    return "invalid" if error.status < 500 else "unavailable"
