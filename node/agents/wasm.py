"""The runtime of a WebAssembly agent: one sandboxed instance, one message at a time.

A call ends by its fuel (the same instruction count everywhere) or, should a host be slow or an instruction
dear, by the wall clock. After any failure the instance is thrown away and the next message gets a fresh
one, so that nothing a guest left half done is ever seen again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from node.agents.journal import Journal
from node.agents.settings import AgentSettings
from node.environment import Environment
from node.errors import InvalidWasm, ValidationFailed
from node.message import CONTENT_DEPTH_LIMIT, Message, Performative, check_capability
from node.messaging.delivery import Delivery, Draft
from node.telemetry.tracing import Tracing
from node.tools.spans import child_span

if TYPE_CHECKING:
    from node.agents.wasm_abi import Moment, WasmInstance, WasmModule

T = TypeVar("T")
_CHECKS: Final = 10
"""How often within its time a waiting call is asked whether it has begun."""


class WasmAgent:
    """Handles the messages of one WebAssembly agent; build it with :meth:`load`."""

    def __init__(
        self,
        module: WasmModule,
        *,
        agent: str,
        environment: Environment,
        tracing: Tracing,
        journal: Journal,
        settings: AgentSettings,
    ) -> None:
        self._module = module
        self._agent = agent
        self._environment = environment
        self._tracing = tracing
        self._journal = journal
        self._settings = settings
        self._instance: WasmInstance | None = None
        self._heard: list[tuple[str, str]] = []  # console lines of the current run, bounded per call
        self._turn = trio.Lock()

    @classmethod
    async def load(
        cls,
        source: bytes,
        *,
        agent: str,
        environment: Environment,
        tracing: Tracing,
        journal: Journal,
        settings: AgentSettings,
    ) -> WasmAgent:
        """Compile and start a module, off the event loop.

        Raises:
            InvalidWasm: it does not compile, breaks the interface, or does not start within its limits.
        """
        module = await environment.workers.run("wasm", _compile, source, settings)
        found = cls(
            module,
            agent=agent,
            environment=environment,
            tracing=tracing,
            journal=journal,
            settings=settings,
        )
        moment = found._moment()
        failed = await found._run(lambda: found._guarded(lambda _instance: None, moment))
        if failed is not None:
            raise InvalidWasm("the WebAssembly module does not start", why=failed["reason"])
        return found

    async def capabilities(self) -> tuple[str, ...]:
        """What the module says it offers.

        Raises:
            InvalidWasm: it says nothing, or nothing that can be read.
        """
        if "get_capabilities" not in self._module.has:
            raise InvalidWasm(
                "the WebAssembly module names no capabilities",
                why="it does not export get_capabilities",
                fix="Export it, or deploy the module with an agent file that names them.",
            )
        moment = self._moment()
        raw = await self._run(lambda: self._guarded(lambda instance: instance.capabilities(moment), moment))
        try:
            names = json.loads(raw) if isinstance(raw, bytes) else None
            if not isinstance(names, list) or not names:
                raise InvalidWasm("the module's capabilities cannot be read", why=str(raw)[:200])
            return tuple(check_capability(name) for name in names)
        except (ValueError, RecursionError, ValidationFailed):
            raise InvalidWasm("the module's capabilities cannot be read", why=str(raw)[:200]) from None

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message; whatever the guest does, the answer is drafts or one FAILURE."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": self._agent,
            "gen_ai.conversation.id": delivery.message.conversation_id,
        }
        with child_span(self._tracing, "agent.handle", delivery.traceparent, attributes) as span:
            moment = self._moment()
            async with self._turn:
                outcome = await self._run(
                    lambda: self._guarded(
                        lambda instance: _exchange(instance, delivery.message, moment), moment
                    )
                )
            drafts = self._drafts(outcome, delivery.message)
            if any(draft.performative is Performative.FAILURE for draft in drafts):
                span.fail("the guest failed")
            return drafts

    async def aclose(self) -> None:
        """Let the guest shut down, within its limits, and throw the instance away."""
        if self._instance is not None:
            moment = self._moment()
            async with self._turn:
                await self._run(lambda: self._guarded(lambda instance: instance.shut_down(moment), moment))
            self._instance = None

    def _moment(self) -> Moment:
        from node.agents.wasm_abi import Moment  # noqa: PLC0415 - wasmtime is imported with the first module

        now_us = int(self._environment.clock.wall() * 1_000_000)
        return Moment(now_us, self._environment.randomness.token(16))

    async def _run(self, job: Callable[[], T]) -> T:
        """Run guest code on a worker, ended by the wall clock at the latest; note what it said."""
        begun: list[bool] = []

        def begin() -> T:
            begun.append(True)
            return job()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, begun)
                result = await self._environment.workers.run("wasm", begin)
                nursery.cancel_scope.cancel()
        finally:
            for level, text in self._heard:
                self._journal.log(level, text)
            self._heard.clear()
        return result

    async def _watch(self, begun: Sequence[bool]) -> None:
        """End the guest when its time is up, counted from when it has a worker, not from when it waits."""
        timeout_s = self._settings.wasm_timeout_s
        try:
            while not begun:
                await self._environment.clock.sleep(timeout_s / _CHECKS)
            while True:  # again and again: a fresh instance in the same run begins with a fresh deadline
                await self._environment.clock.sleep(timeout_s)
                self._module.interrupt()
        finally:  # a caller that goes away ends the guest too
            self._module.interrupt()

    def _guarded(self, job: Callable[[WasmInstance], T], moment: Moment) -> T | dict[str, Any]:
        """Run ``job`` on the instance, a fresh one if there is none; runs on a worker.

        A failure becomes the content of a FAILURE, and the instance is thrown away.
        """
        from node.agents.wasm_abi import GuestFailed, WasmInstance  # noqa: PLC0415 - see _moment

        instance = self._instance
        try:
            if instance is None:
                instance = self._instance = WasmInstance(self._module, moment)
                self._hear(instance)
            return job(instance)
        except GuestFailed as error:
            self._instance = None
            return {"code": "RUNTIME_ERROR", "reason": error.reason, "details": {"limit": error.limit}}
        finally:
            if instance is not None:
                self._hear(instance)

    def _hear(self, instance: WasmInstance) -> None:
        """Take what the guest has said since the last time."""
        self._heard += instance.said.console
        instance.said.console = []

    def _drafts(self, outcome: list[Draft] | dict[str, Any], message: Message) -> list[Draft]:
        if isinstance(outcome, list) and (outcome or not message.expects_reply):
            self._journal.log("info", f"answered with {len(outcome)} messages")
            return outcome
        silent = {"code": "RUNTIME_ERROR", "reason": "the module sent no answer"}
        content = outcome if isinstance(outcome, dict) else silent
        self._journal.log("error", content["reason"], message_id=message.id)
        return [Draft(Performative.FAILURE, content, protocol=message.protocol)]


def _compile(source: bytes, settings: AgentSettings) -> WasmModule:
    from node.agents.wasm_abi import WasmLimits, WasmModule  # noqa: PLC0415 - see WasmAgent._moment

    return WasmModule(source, WasmLimits(settings.wasm_fuel, settings.wasm_memory_bytes))


def _exchange(instance: WasmInstance, message: Message, moment: Moment) -> list[Draft] | dict[str, Any]:
    """Hand a message over and read what was sent; both can be megabytes of JSON, so it runs on a worker."""
    data = json.dumps(_guest_message(message), ensure_ascii=False, separators=(",", ":"))
    said = instance.handle(data.encode(), moment)
    try:
        return [_draft(sent) for sent in said.sent]
    except ValidationFailed as error:
        return {"code": "RUNTIME_ERROR", "reason": f"the module sent no message: {error.why}"}


def _guest_message(message: Message) -> dict[str, Any]:
    """The message as a guest reads it: the public form, always with content, attachments with their data."""
    shown = message.as_json() | {"content": message.content}
    files: list[dict[str, Any]] = []
    for attachment in message.attachments:
        entry: dict[str, Any] = {"name": attachment.name, "media_type": attachment.media_type}
        try:
            entry["text"] = attachment.data.decode()
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(attachment.data).decode()
        files.append(entry)
    return shown | ({"attachments": files} if files else {})


def _draft(data: bytes) -> Draft:
    """Read what a guest sent.

    Raises:
        ValidationFailed: it is not JSON of the right form.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValidationFailed("not a message", why="it is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("performative"), str):
        raise ValidationFailed("not a message", why="it is no object with a performative")
    unknown = sorted(set(value) - {"performative", "content", "receiver", "capability", "protocol"})
    if unknown:
        raise ValidationFailed("not a message", why=f"it has the unknown field {unknown[0][:80]!r}")
    named = {key: value.get(key) for key in ("receiver", "capability", "protocol")}
    if not all(item is None or (isinstance(item, str) and len(item) <= 512) for item in named.values()):
        raise ValidationFailed("not a message", why="receiver, capability and protocol are texts")
    if _depth(value.get("content")) > CONTENT_DEPTH_LIMIT:
        raise ValidationFailed("not a message", why=f"nested deeper than {CONTENT_DEPTH_LIMIT}")
    performative = Performative.parse(value["performative"])
    return Draft(
        performative,
        value.get("content"),
        receiver=named["receiver"],
        capability=named["capability"],
        protocol=named["protocol"],
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            item
            for entry in level
            if isinstance(entry, dict | list)
            for item in (entry.values() if isinstance(entry, dict) else entry)
        ]
        depth += 1
    return depth
