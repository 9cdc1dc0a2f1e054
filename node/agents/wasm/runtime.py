"""What the WebAssembly agents of a node share: the engine, compiled modules, and the rooms around them."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

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
from node.errors import InvariantViolation
from node.storage.agent_state import load_agent_state
from node.storage.own_keys import own_key
from node.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from node.agents.wasm.apart import Compilation
    from node.agents.wasm.engine import Compiled, GuestModule, WasmEngine
    from node.agents.wasm.sandbox import Sandbox


class _Uncompiled(Exception):
    """A module is to be compiled apart before it can start.

    Args:
        name: Of the artifact.
        binary: The module.
    """

    def __init__(self, name: str, binary: bytes) -> None:
        super().__init__(name)
        self.name, self.binary = name, binary


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
    _under_way: dict[str, trio.Event] = field(default_factory=dict)
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

        sandboxes, outcome = await self._begun(watch, begin)
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
        compiling = len(self._under_way)
        found: dict[str, Any] = {
            "modules": len(self._modules),
            "compiling": compiling,
            "hops": self._hops.statistics(),
        }
        if self._compiled is not None:
            found["compiled"] = self._compiled.statistics()
        return found

    def _tick(self) -> None:
        if self._engine is not None:
            self._engine.tick()

    async def _begun(
        self, watch: Watch, begin: Callable[[Progress], tuple[list[Sandbox], Outcome]]
    ) -> tuple[list[Sandbox], Outcome]:
        """Start a module; one that is not compiled yet, and is not small, is compiled apart first."""
        held: list[Compiled | None] = []  # until it is begun: the runtime itself keeps no module
        while True:
            try:
                return await watch.run(begin)
            except _Uncompiled as error:
                left = error
            held.append(await self._compiled_apart(left))

    async def _compiled_apart(self, left: _Uncompiled) -> Compiled | None:
        """What was to be compiled; None where somebody else was about it, and has ended."""
        from node.agents.wasm.apart import Compilation  # noqa: PLC0415 - wasmtime is here by now

        if left.name in self._under_way:
            await self._under_way[left.name].wait()
            return None
        self._under_way[left.name] = trio.Event()
        compilation, raised = Compilation(left.binary), list[Exception]()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_cancelled, compilation)
                try:
                    artifact = await self.environment.workers.run("wasm_compiling", compilation.run)
                    return await self.environment.workers.run("wasm", self._take, left, artifact)
                except Exception as error:  # as it is, not in the nursery's group
                    raised.append(error)
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._under_way.pop(left.name).set()
        await trio.lowlevel.checkpoint_if_cancelled()  # else it would seem that the module was at fault
        raise raised[0]

    def _take(self, left: _Uncompiled, artifact: bytes) -> Compiled:
        """Runs on a worker."""
        engine = self._engine
        if engine is None:
            raise InvariantViolation("it was the engine that had not compiled it")
        compiled = engine.taken(left.binary, artifact)
        engine.check(compiled)
        if self._compiled is not None:
            self._compiled.save(left.name, artifact)
        self._modules[left.name] = compiled
        return compiled

    def _module(self, source: bytes, policy: WasmPolicy, sha256: str) -> GuestModule:
        """Runs on a worker."""
        from node.agents.wasm import interface  # noqa: PLC0415 - 120 ms of import that a node may be spared
        from node.agents.wasm.apart import APART_BYTES  # noqa: PLC0415
        from node.agents.wasm.compiling import CONFIGURATION  # noqa: PLC0415
        from node.agents.wasm.component import COMPONENT_LIMIT_BYTES  # noqa: PLC0415
        from node.agents.wasm.engine import (  # noqa: PLC0415
            CHECKED,
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
                if len(binary) > APART_BYTES:
                    raise _Uncompiled(name, binary)
                compiled = self._engine.compile(binary)
                self._engine.check(compiled)
                if self._compiled is not None:
                    self._compiled.save(name, bytes(compiled.serialize()))
            self._modules[name] = compiled
        return guest_module(self._engine, compiled, policy.grants, checked=True)


async def _until_cancelled(compilation: Compilation) -> None:
    """Who goes away ends what was begun for him."""
    try:
        await trio.sleep_forever()
    finally:
        compilation.give_up()
