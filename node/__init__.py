"""The node process: every room of it, from errors at the bottom to the command line at the top."""
