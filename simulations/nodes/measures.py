"""What clients saw: how their requests ended, what was answered, and how long it took."""

from __future__ import annotations

from collections import Counter
from typing import Any

from node.message import Message
from node.messaging.history import MessageHistory
from simulations.measures import quantiles
from simulations.nodes.properties import Ledger


async def measure(ledger: Ledger) -> dict[str, Any]:
    """The measures of a run, in virtual seconds where they are times.

    ``ended_STATE`` counts accepted requests by how they ended at their origin, ``answered_PERFORMATIVE`` by
    what answered them first, ``refused_CODE`` those that no node took.
    """
    clients = ledger.clients
    if clients is None:
        return {}
    ends: Counter[str] = Counter()
    waits_s: list[float] = []
    for _, history in await ledger.histories():
        if history is None or history.row is None:
            ends["ended_unknown"] += 1
            continue
        ends[f"ended_{history.row.state}"] += 1
        answer = _first_answer(history)
        if answer is not None:
            performative, wait_s = answer
            ends[f"answered_{performative}"] += 1
            waits_s.append(wait_s)
    return {
        "accepted": len(clients.asked),
        **{f"refused_{code}": count for code, count in sorted(clients.refused.items())},
        **dict(sorted(ends.items())),
        **{f"answer_{name}_s": value for name, value in quantiles(waits_s).items()},
    }


def _first_answer(history: MessageHistory) -> tuple[str, float] | None:
    if history.row is None or not history.replies:
        return None
    first = min(history.replies, key=lambda reply: reply.received_s)
    return Message.unseal(first.sealed).performative.value, round(
        first.received_s - history.row.accepted_s, 6
    )
