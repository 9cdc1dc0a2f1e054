"""Glue to swim: membership, the capability registry view, addresses of peers."""
