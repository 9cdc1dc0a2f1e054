"""Webhooks: others are told, over HTTP, of what happens to messages here."""
