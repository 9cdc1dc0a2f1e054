"""Measurements of `swim`."""
