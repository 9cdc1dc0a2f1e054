"""The MCP host and the built-in MCP servers."""
