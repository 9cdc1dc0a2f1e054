"""Deployments of the cluster: so many replicas of an agent, placed by every node on its own, alike."""
