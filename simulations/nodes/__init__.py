"""Scenarios of whole nodes: the same vocabulary of faults, links and properties as for membership alone."""
