"""What WebAssembly agents cost."""
