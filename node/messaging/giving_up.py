"""Why a message was given up, as its sender is told."""

from __future__ import annotations

from node.errors import CaxtonError
from node.messaging import dead_letters
from node.messaging.letters import Letter
from node.messaging.placement import Placement
from node.messaging.sweep import IN_MINORITY, NO_PROVIDER


def why_given_up(letter: Letter, placement: Placement) -> CaxtonError:
    """The error that the FAILURE for a message's sender carries."""
    if letter.reason == NO_PROVIDER:
        return dead_letters.no_provider(letter.message, placement.related(letter))
    if letter.reason == IN_MINORITY:
        return dead_letters.refused_in_minority(letter.message)
    if letter.ended == "expired" and dead_letters.is_by_its_reply_by(letter):
        missing = [f"{agent}@{node}" for agent, node in letter.unhandled()]
        return dead_letters.no_reply_in_time(letter.message, missing=missing)
    return dead_letters.undelivered(letter.message, letter.reason)
