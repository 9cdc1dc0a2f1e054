"""What the WebAssembly agents of a node share: the engine, compiled modules, and the rooms around them."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.agents.deployed import AgentBus, Store
from node.agents.journal import Journal
from node.agents.wasm.agent import Failed, WasmAgent, moment_of
from node.agents.wasm.calls import Outcome, Progress
from node.agents.wasm.compiled import CompiledModules, artifact_name
from node.agents.wasm.hops import Hops
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.state import AgentState
from node.agents.wasm.watch import Watch
from node.environment import Environment
from node.storage.agent_state import load_agent_state
from node.storage.own_keys import own_key
from node.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from node.agents.wasm.engine import Compiled, GuestModule, WasmEngine
    from node.agents.wasm.sandbox import Sandbox


@dataclass(slots=True)
class WasmRuntime:
    """See the module's docstring.

    Args:
        environment: Clock, chance, workers.
        node: The name of this node.
        tracing: Opens spans.
        store: Where agents keep their state, or None: they keep it in memory.
        bus: Takes what timers send, or None: nothing can be sent then.
        cache: Where compiled modules are kept, or None: nowhere.
    """

    environment: Environment
    node: str
    tracing: Tracing
    store: Store | None = None
    bus: AgentBus | None = None
    cache: Path | None = None
    _hops: Hops = field(init=False)
    _engine: WasmEngine | None = None
    _compiled: CompiledModules | None = None
    _modules: weakref.WeakValueDictionary[str, Compiled] = field(default_factory=weakref.WeakValueDictionary)

    def __post_init__(self) -> None:
        self._hops = Hops(self.environment, self._tick)

    async def load(
        self,
        source: bytes,
        *,
        agent: str,
        journal: Journal,
        policy: WasmPolicy,
        sha256: str = "",
        outside: Outside | None = None,
        on_quarantine: Failed = lambda reason: None,
    ) -> WasmAgent:
        """Compile and start a module, off the event loop.

        Args:
            source: WebAssembly, binary or text.
            agent: The id of the agent.
            journal: Its log.
            policy: What it may do.
            sha256: Of ``source``, in hexadecimal, if it is known: that of 18 MB takes longer than the rest.
            outside: What it may ask for beyond its sandbox; None for nothing.
            on_quarantine: Told why, once, when it has failed too often.

        Raises:
            InvalidWasm: it does not compile, breaks the interface, or does not start within its limits.
        """
        if self.cache is not None and self.store is not None and self._compiled is None:
            fresh = self.environment.randomness.token(32)
            key = await self.store.write(lambda connection: own_key(connection, "wasm-cache", fresh))
            self._compiled = CompiledModules(self.cache, key)
        stored: dict[bytes, bytes] = {}
        if self.store is not None:
            stored = await self.store.read(lambda connection: load_agent_state(connection, agent))
        watch, moment = Watch(self.environment, self._tick, policy, self._hops), moment_of(self.environment)

        def begin(progress: Progress) -> tuple[list[Sandbox], Outcome]:
            from node.agents.wasm.sandbox import Sandbox  # noqa: PLC0415 - wasmtime comes with the first module

            module = self._module(source, policy, sha256)
            sandboxes = [Sandbox(module, policy, self.node, outside) for _ in range(policy.instances)]
            return sandboxes, sandboxes[0].start(progress, moment)

        sandboxes, outcome = await watch.run(begin)
        found = WasmAgent(
            sandboxes,
            agent=agent,
            node=self.node,
            environment=self.environment,
            tracing=self.tracing,
            journal=journal,
            policy=policy,
            state=AgentState(stored),
            store=self.store,
            bus=self.bus,
            watch=watch,
            on_quarantine=on_quarantine,
        )
        found.begin(outcome, moment)
        return found

    def statistics(self) -> dict[str, Any]:
        """How many modules are in memory, and what the cache of compiled ones does."""
        found: dict[str, Any] = {"modules": len(self._modules), "hops": self._hops.statistics()}
        if self._compiled is not None:
            found["compiled"] = self._compiled.statistics()
        return found

    def _tick(self) -> None:
        if self._engine is not None:
            self._engine.tick()

    def _module(self, source: bytes, policy: WasmPolicy, sha256: str) -> GuestModule:
        """Runs on a worker."""
        from node.agents.wasm import interface  # noqa: PLC0415 - 120 ms of import that a node may be spared
        from node.agents.wasm.component import COMPONENT_LIMIT_BYTES  # noqa: PLC0415
        from node.agents.wasm.engine import (  # noqa: PLC0415
            CHECKED,
            CONFIGURATION,
            VERSION,
            WasmEngine,
            binary_of,
            guest_module,
        )

        if self._engine is None:
            self._engine = WasmEngine()
        binary = binary_of(source)
        if not sha256 or binary is not source:  # of a text
            sha256 = hashlib.sha256(binary).hexdigest()  # processors have instructions for it
        name = artifact_name(sha256, VERSION, CONFIGURATION, CHECKED)
        compiled = self._modules.get(name)
        if compiled is None:
            if self._compiled is not None:
                compiled = self._compiled.load(name, partial(self._engine.deserialize, binary))
            if compiled is None:
                interface.check_size(binary, COMPONENT_LIMIT_BYTES)
                compiled = self._engine.compile(binary)
                self._engine.check(compiled)
                if self._compiled is not None:
                    self._compiled.save(name, bytes(compiled.serialize()))
            self._modules[name] = compiled
        return guest_module(self._engine, compiled, policy.grants, checked=True)
