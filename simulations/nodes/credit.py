"""Credit: however many nodes send to an agent, no more waits there than its mailbox takes, and a little.

Messages are counted in the file of the node, not by those who grant windows
(:mod:`node.messaging.credit`), so that what they lose count of is seen.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from node.messaging.settings import CLIENTS
from node.storage.inbox import held_by_origin
from node.transport.frames import FREE_CREDIT
from simulations.cluster import SimulatedNode

if TYPE_CHECKING:
    from simulations.nodes.properties import SimulatedLedger

NAME: Final = "always_credit_is_kept"


def credit_is_kept(ledger: SimulatedLedger, life: SimulatedNode) -> None:
    """Of ``n`` origins no agent has more that has not ended than its capacity, and 32 times ``n``.

    While the disk of the node is slow or cannot be read, nothing is counted: it would be waited for.
    """
    disk, handlers = life.disk, life.node.bus._handlers
    if disk.read_fails or disk.read_s:
        return
    held: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    for _, agent, count in held_by_origin(life.node.storage._reader):
        if agent not in CLIENTS:  # they wait in no mailbox
            held[agent] += count
            origins[agent] += 1
    for agent, count in held.items():
        capacity, several = handlers.capacity(agent), origins[agent]
        limit = capacity + FREE_CREDIT * several
        ledger.checked(NAME)
        ledger.fullest = max(ledger.fullest, count / capacity)
        if count > limit:
            ledger.violated(
                NAME, f"{several} nodes have {count} messages at {agent} on {life.name}; it may be {limit}"
            )
