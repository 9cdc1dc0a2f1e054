"""Agents: definitions, the supervisor, the configured and the WebAssembly runtime."""
