"""Copies of what is shared: an operation log on every node, exchanged over the peer links until all agree."""
