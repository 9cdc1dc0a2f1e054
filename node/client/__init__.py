"""The library with which an application talks to a node: asynchronous on Trio and asyncio, or synchronous.

It imports nothing of the node but its vocabulary of errors, so that an application loads no database, no
cluster and no server.
"""

from node.client.asynchronous import AsyncClient, AsyncConversation
from node.client.calls import Retries
from node.client.failures import Refused, TakenOver
from node.client.mailbox import AsyncMailbox, Subscription
from node.client.shapes import Delivery, Receipt
from node.client.streaming import AsyncAnswer, Partial
from node.client.synchronous import Answer, Client, Conversation, Mailbox

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "AsyncConversation",
    "AsyncMailbox",
    "Client",
    "Conversation",
    "Delivery",
    "Mailbox",
    "Partial",
    "Receipt",
    "Refused",
    "Retries",
    "Subscription",
    "TakenOver",
]
