"""One sandboxed instance of a component: what :mod:`node.agents.wasm.instance` is for a core module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import wasmtime
from wasmtime import component

from node.agents.wasm import interface, shapes, world
from node.agents.wasm.failure import GuestFailed, backtrace, where
from node.agents.wasm.host import Host, Moment, Phase, Said
from node.agents.wasm.instance import CAPABILITIES_LIMIT_BYTES, MESSAGE_LIMIT_BYTES, last_line
from node.agents.wasm.native import NativeStore
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.signatures import EXPORT_TYPES, wrong_exports, wrong_imports
from node.agents.wasm.state import StateChanges

if TYPE_CHECKING:
    from node.agents.wasm.engine import WasmEngine

COMPONENT_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Largest component: an interpreter for Python takes 18 MB."""
TABLE_LIMIT: Final = 100_000
"""Most elements of a component's tables."""
INSTANCES_LIMIT: Final = 200
"""Most core instances inside one component."""
MEMORIES_LIMIT: Final = 2
"""Most memories of one component, each with the limit of its agent: its own and an adapter's."""

_INSTANTIATION: Final = "its instantiation"
_TRAPS: Final = (
    ("all fuel consumed", "fuel", "it used up its instructions"),
    ("call stack exhausted", "stack", "its stack overflowed"),
    ("out of bounds memory access", "memory", "it reached outside its memory"),
)


def check_world(engine: wasmtime.Engine, module: component.Component) -> None:
    """Compare what a component imports and exports with the world.

    Raises:
        InvalidWasm: it was built for another world.
    """
    wrong = list(wrong_imports(engine, module.type, world.VERSION))
    lacking = list(wrong_exports(engine, module.type))
    if wrong:
        raise interface.invalid(f"it imports {', '.join(wrong[:20])}", missing=wrong[:20], fix=_BUILD_FIX)
    if lacking:
        raise interface.invalid(f"it does not export {', '.join(lacking)}", missing=lacking, fix=_BUILD_FIX)


class ComponentModule:
    """A compiled component.

    Args:
        engine: What compiled it, and has checked it.
        module: The component.
    """

    has = frozenset(("get_capabilities", "handle_timer"))

    def __init__(self, engine: WasmEngine, module: component.Component) -> None:
        self.engine = engine
        self.module = module
        self.shapes: dict[str, shapes.Shape] = {}
        """Types of its exports, once they have been called."""

    def instance(
        self, policy: WasmPolicy, moment: Moment, is_stopped: Callable[[], bool]
    ) -> ComponentInstance:
        """A started instance; see :class:`ComponentInstance`."""
        return ComponentInstance(self, policy, moment, is_stopped)


class ComponentInstance:
    """An instance that has started; arguments, methods and errors are those of ``WasmInstance``."""

    def __init__(
        self, module: ComponentModule, policy: WasmPolicy, moment: Moment, is_stopped: Callable[[], bool]
    ) -> None:
        self._current, self._shapes = module.engine.current, module.shapes
        self.policy = policy
        self.is_stopped = is_stopped
        self.failed: Exception | None = None
        self.host = Host(policy, moment)
        self._store = wasmtime.Store(module.engine.engine)
        self._store.set_limits(
            memory_size=policy.memory_bytes,
            table_elements=TABLE_LIMIT,
            instances=INSTANCES_LIMIT,
            tables=INSTANCES_LIMIT,
            memories=MEMORIES_LIMIT,
        )
        self._store.set_wasi(wasmtime.WasiConfig())
        self._native = NativeStore(self._store, module.engine.deadline)
        try:
            self._start(module)
        except GuestFailed as error:
            error.console = self.host.end()
            raise

    @property
    def said(self) -> Said:
        """What it asked for during the current call."""
        return self.host.said

    @property
    def fuel_used(self) -> int:
        """Instructions of the current call so far."""
        return self.policy.fuel - self._native.fuel()

    @property
    def memory_bytes(self) -> int | None:
        """None: wasmtime does not tell of the memories inside a component."""
        return None

    def handle(
        self,
        message: bytes,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> Said:
        """Handle one message; the instance is spent when this raises."""
        self._begin(Phase.MESSAGE, moment, state, timers)
        if len(message) > MESSAGE_LIMIT_BYTES:
            raise GuestFailed("message_size", f"the message has {len(message):,} bytes as JSON")
        return self._finish("handle-message", message.decode())

    def handle_timer(
        self,
        timer: int,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> Said:
        """Tell the guest that a timer is up."""
        self._begin(Phase.TIMER, moment, state, timers)
        return self._finish("handle-timer", timer)

    def capabilities(self, moment: Moment) -> bytes:
        """What it says it offers, as a JSON array."""
        self._begin(Phase.OTHER, moment)
        found = msgspec.json.encode(self._call("capabilities"))
        if len(found) > CAPABILITIES_LIMIT_BYTES:
            raise GuestFailed("capabilities", f"its capabilities have {len(found):,} bytes")
        return found

    def shut_down(self, moment: Moment) -> None:
        """Tell the guest that it ends."""
        self._begin(Phase.OTHER, moment)
        self._call("stop")

    def _start(self, module: ComponentModule) -> None:
        self._native.refuel(self.policy.fuel)
        instance = self._enter(
            _INSTANTIATION, lambda: module.engine.components.instantiate(self._store, module.module)
        )
        self._functions: dict[str, Any] = {
            name: instance.get_func(self._store, name) for name in EXPORT_TYPES
        }
        self._finish("start")

    def _begin(
        self,
        phase: Phase,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> None:
        self.host.begin(phase, moment, state, timers)
        self._native.refuel(self.policy.fuel)

    def _finish(self, name: str, *arguments: Any) -> Said:
        refused = self._call(name, *arguments)
        if refused is not None:
            raise GuestFailed("status", f"{name}: {str(refused)[:300]}")
        return self.host.said

    def _call(self, name: str, *arguments: Any) -> Any:
        function, shape = self._functions[name], self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = shapes.Shape.of(function.type(self._store))
        return self._enter(name, lambda: shapes.call(function, self._store, shape, *arguments))

    def _enter(self, name: str, call: Callable[[], Any]) -> Any:
        before, self._current.guest = self._current.guest, self
        try:
            return call()
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise self._failure(name, error) from None
        finally:
            self._current.guest = before

    def _failure(self, name: str, error: Exception) -> GuestFailed:
        noted, self.failed = self.failed, None
        if isinstance(noted, GuestFailed):
            return noted.at(backtrace(str(error)))
        if noted is not None:
            raise noted  # a bug of the host, not of the guest
        text = str(error)
        frames = backtrace(text)
        if self.is_stopped():
            return GuestFailed("wall_clock", f"{name}: it took too long", frames)
        if name == _INSTANTIATION:
            return GuestFailed("instantiate", f"{name}: {' '.join(text.split())}")
        for sign, limit, reason in _TRAPS:
            if sign in text:
                return GuestFailed(limit, f"{name}: {reason}{where(frames)}", frames)
        return GuestFailed("trap", f"{name}: {last_line(error)}{where(frames)}", frames)


_BUILD_FIX: Final = "Build it for the world caxton:agent@1.0.0 (node/agents/wasm/wit/agent.wit)."
