"""Where a memory can be kept: the protocol of all, the gate above them, and those that ship."""
