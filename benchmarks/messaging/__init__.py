"""Durable messages: rates, latencies, and what they cost."""
