"""WebAssembly agents: sandboxed guests, compiled once, called in batches off the event loop."""

from node.agents.grants import Grant
from node.agents.wasm.agent import WasmAgent
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.runtime import WasmRuntime

__all__ = ["Grant", "Outside", "WasmAgent", "WasmPolicy", "WasmRuntime"]
