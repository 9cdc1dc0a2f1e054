"""A deterministic cluster simulator: the production node under a virtual clock and network."""
