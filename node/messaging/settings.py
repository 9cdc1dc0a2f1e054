"""Messaging's own bounds and times, beside those a user sets in the section ``messaging``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HOP_LIMIT: Final = 16
"""Most messages in one chain of agents asking agents; beyond it a message is a dead letter."""
ROUTE_LIMIT: Final = 32
"""Most times one message is given to a provider."""
HANDLER_ATTEMPTS: Final = 3
"""Handler runs that may raise before a message fails."""
OUTBOX_BYTES_LIMIT: Final = 64 * 1024**2
"""Most bytes of open messages in memory; new ones of clients are refused beyond it."""
SHARES: Final = 8
"""Who is away gets this part of the outbox's capacity in memory; the rest of its messages waits on disk."""
CLIENTS: Final = frozenset({"client", "system"})
"""Addressees that are no agents: their messages wait in the inbox for whoever asks for them."""
INBOX_ROW_LIMIT: Final = 1_000_000
"""Most rows of the inbox, ended ones included; deliveries are refused beyond it."""
KEEP_ROWS: Final = 50_000
"""Ended messages kept for their history, as long as they are not too old."""
TTL_LIMIT_S: Final = 30 * 86_400.0
"""Longest life of a message."""
WATERMARK_S: Final = 120.0
"""An outcome this old was received by its origin, provided that the link stayed up."""
CONFIRMED_MARGIN_S: Final = 5.0
"""How much longer an outcome is remembered whose receipt is proven: a copy may still be on another link."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times that tests and simulations shorten.

    Args:
        no_provider_grace_s: How long a message waits for a capability that nobody offers.
        agent_wait_s: How long after the start messages wait for an agent that is not attached yet.
        sweep_s: How often what waits is looked at.
        refusal_pause_s: How long a provider that refused a message is left out for it.
        probe_s: How long after its receipt an unsettled message is asked for.
        retention_every_s: How often old rows are dropped.
    """

    no_provider_grace_s: float = 5.0
    agent_wait_s: float = 10.0
    sweep_s: float = 0.25
    refusal_pause_s: float = 2.0
    probe_s: float = 30.0
    retention_every_s: float = 5.0
