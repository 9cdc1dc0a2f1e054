"""The caxton command."""
