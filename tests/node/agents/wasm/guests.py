"""Guests in WebAssembly text, and a runtime that runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from node.agents.journal import Journal
from node.agents.wasm import Grant, WasmAgent, WasmPolicy, WasmRuntime
from node.agents.wasm.interface import IMPORTS
from node.agents.wasm.outside import Outside
from node.environment import Environment
from node.telemetry.tracing import Tracing
from node.vocabulary import Performative
from tests.node.agents.inline import inline_environment
from tests.node.agents.rooms import FakeBus, MemoryStore, delivery

ALL = frozenset(Grant)
ANSWER_AT = 1024
ANSWER = '{"performative":"inform","content":       0}'
"""Its content is a number of at most eight digits, which ``$answer`` fills in."""


def guest(
    body: str = "(call $answer (i32.const 1))",
    *,
    imports: Iterable[str] = ("send_message",),
    data: dict[int, str] | None = None,
    more: str = "",
    init: str = "(i32.const 0)",
    pages: int = 4,
) -> bytes:
    """A module whose ``handle_message`` runs ``body`` and returns 0; ``$answer`` sends a number."""
    texts = {ANSWER_AT: ANSWER, ANSWER_AT + 100: " " * 8, **(data or {})}
    segments = "\n".join(f"(data (i32.const {at}) {quoted(text)})" for at, text in texts.items())
    functions = "\n".join(_import(name) for name in dict.fromkeys(("send_message", *imports)))
    return f"""(module
      {functions}
      (memory (export "memory") {pages})
      {segments}
      (func $answer (param $n i32) (local $at i32) (local $negative i32)
        (memory.copy (i32.const {ANSWER_AT + len(ANSWER) - 9}) (i32.const {ANSWER_AT + 100}) (i32.const 8))
        (local.set $at (i32.const {ANSWER_AT + len(ANSWER) - 2}))
        (if (i32.lt_s (local.get $n) (i32.const 0)) (then
          (local.set $negative (i32.const 1))
          (local.set $n (i32.sub (i32.const 0) (local.get $n)))))
        (loop $digit
          (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
          (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
          (local.set $at (i32.sub (local.get $at) (i32.const 1)))
          (br_if $digit (local.get $n)))
        (if (local.get $negative) (then (i32.store8 (local.get $at) (i32.const 45))))
        (drop (call $send_message (i32.const {ANSWER_AT}) (i32.const {len(ANSWER)}))))
      {more}
      (func (export "caxton_alloc") (param i32) (result i32) (i32.const 8192))
      (func (export "agent_init") (result i32) {init})
      (func (export "handle_message") (param $at i32) (param $length i32) (result i32)
        {body}
        (i32.const 0)))""".encode()


def quoted(text: str) -> str:
    """A WebAssembly string."""
    return '"' + "".join(f"\\{byte:02x}" for byte in text.encode()) + '"'


def _import(name: str) -> str:
    parameters, results = IMPORTS[name]
    shape = "".join(f" (param {p})" for p in parameters) + "".join(f" (result {r})" for r in results)
    return f'(import "caxton" "{name}" (func ${name}{shape}))'


class House:
    """A runtime with its rooms, so that a test can look at all of them."""

    def __init__(
        self,
        environment: Environment | None = None,
        *,
        store: MemoryStore | None = None,
        cache: Path | None = None,
    ) -> None:
        self.environment = environment or inline_environment()
        self.bus = FakeBus()
        self.store = store or MemoryStore()
        self.journal = Journal(self.environment.clock, 200)
        self.quarantined: list[str] = []
        self.runtime = WasmRuntime(self.environment, "node-1", Tracing.off(), self.store, self.bus, cache)

    async def load(
        self,
        source: bytes,
        grants: Iterable[Grant] = ALL,
        agent: str = "guest",
        outside: Outside | None = None,
        **policy: Any,
    ) -> WasmAgent:
        return await self.runtime.load(
            source,
            agent=agent,
            journal=self.journal,
            policy=WasmPolicy(frozenset(grants), **{"fuel": 2_000_000, **policy}),
            outside=outside,
            on_quarantine=self.quarantined.append,
        )

    def lines(self, level: str | None = None) -> list[str]:
        return [r.text for r in self.journal.records(tail=500, since_s=None, level=level)]


async def ask(agent: WasmAgent, content: object = None) -> Any:
    """The content of the one answer; a FAILURE as ``(limit, reason)``."""
    [draft] = await agent.handle(delivery(content))
    if draft.performative is Performative.FAILURE:
        return draft.content["details"]["limit"], draft.content["reason"]
    return draft.content


async def answers(source: bytes, *contents: object, **more: Any) -> list[Any]:
    agent = await House().load(source, **more)
    return [await ask(agent, content) for content in contents or (None,)]


def as_text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


Make = Callable[..., bytes]
