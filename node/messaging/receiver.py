"""The life of one message at its receiver, as two tables: what an arrival does, and how handling ends.

A message is known by (authenticated origin, message id, target). A higher route epoch of the same key is
the same message again: if it is held, it stays held and its end is reported under the higher epoch; if it has
ended, it is answered with that end; only a refusal starts over, because a refused message was never handled.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from node.transport.frames import HeldState, OutcomeState


class ItemState(StrEnum):
    """Where a received message stands; UNKNOWN is never stored."""

    UNKNOWN = "unknown"
    HELD = "held"
    SETTLED = "settled"
    FAILED = "failed"
    REFUSED = "refused"
    LATE = "late"
    """A reply that came after another provider's: kept for the history, handed to nobody."""


class Arrival(StrEnum):
    """How a delivery relates to what is known."""

    REPEATED = "repeated"
    """The same epoch as before, or a lower one."""
    REROUTED = "rerouted"
    """A higher epoch than before."""


class ArrivalAction(StrEnum):
    """What the inbox has to do with an arrival."""

    STORE = "store"
    HOLD_AGAIN = "hold_again"
    ACKNOWLEDGE = "acknowledge"
    RAISE_EPOCH = "raise_epoch"
    """Acknowledge, and remember the higher epoch."""
    ANSWER = "answer"
    """Tell how it ended."""
    REFUSE = "refuse"
    """Nothing of it is stored: there is no room for it, or nobody to take it."""
    WITHDRAW = "withdraw"
    """Nothing of it is stored, or told: this very node was about to accept it, and has not."""


class Handling(StrEnum):
    """How a handler run, or the wait for one, ended."""

    SUCCEEDED = "succeeded"
    RAISED = "raised"
    EXHAUSTED = "exhausted"
    """It raised for the last time."""
    EXPIRED = "expired"
    NO_AGENT = "no_agent"
    OUT_OF_PROTOCOL = "out_of_protocol"
    """It answers nothing that it could answer: its sender is told, its agent never sees it."""


_S = ItemState
_A = ArrivalAction

ARRIVALS: Final[dict[tuple[ItemState, Arrival], ArrivalAction]] = {
    (_S.UNKNOWN, Arrival.REPEATED): _A.STORE,
    (_S.UNKNOWN, Arrival.REROUTED): _A.STORE,
    (_S.HELD, Arrival.REPEATED): _A.ACKNOWLEDGE,
    (_S.HELD, Arrival.REROUTED): _A.RAISE_EPOCH,
    (_S.SETTLED, Arrival.REPEATED): _A.ANSWER,
    (_S.SETTLED, Arrival.REROUTED): _A.ANSWER,
    (_S.FAILED, Arrival.REPEATED): _A.ANSWER,
    (_S.FAILED, Arrival.REROUTED): _A.ANSWER,
    (_S.REFUSED, Arrival.REPEATED): _A.ANSWER,
    (_S.REFUSED, Arrival.REROUTED): _A.HOLD_AGAIN,
    (_S.LATE, Arrival.REPEATED): _A.ANSWER,
    (_S.LATE, Arrival.REROUTED): _A.ANSWER,
}

ENDINGS: Final[dict[Handling, ItemState]] = {
    Handling.SUCCEEDED: _S.SETTLED,
    Handling.RAISED: _S.HELD,
    Handling.EXHAUSTED: _S.FAILED,
    Handling.EXPIRED: _S.FAILED,
    Handling.NO_AGENT: _S.REFUSED,
    Handling.OUT_OF_PROTOCOL: _S.SETTLED,
}
"""What a held message becomes; one that has ended stays as it is."""


OUTCOMES: Final[dict[ItemState, OutcomeState]] = {
    _S.SETTLED: "settled",
    _S.FAILED: "failed",
    _S.REFUSED: "refused",
    _S.LATE: "settled",
}
"""What the origin is told of each end; a late reply is done with as far as its sender is concerned."""


def arrive(state: ItemState, known_epoch: int, epoch: int) -> ArrivalAction:
    """What to do with a delivery under ``epoch`` of a message in ``state``."""
    return ARRIVALS[state, Arrival.REROUTED if epoch > known_epoch else Arrival.REPEATED]


def end(state: ItemState, handling: Handling) -> ItemState:
    """The state after ``handling``."""
    return ENDINGS[handling] if state is ItemState.HELD else state


def reported(state: ItemState) -> HeldState:
    """The word of the wire for a stored state."""
    return OUTCOMES.get(state, "held")
