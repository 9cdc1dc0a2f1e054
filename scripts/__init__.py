"""Scripts that make what is committed; nothing of this is installed."""
