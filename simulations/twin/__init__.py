"""The twin of a simulation: the same scenario with real processes in network namespaces of their own."""
