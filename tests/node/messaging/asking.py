"""What tests of the bus do again and again: send, ask, and wait until all is settled."""

from tests.node.messaging.rooms import pause


def settled(c):
    return lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values())


async def ask(node, timeout_s=30.0, **fields):
    return await node.bus.request(node.message(**({"capability": "work"} | fields)), timeout_s=timeout_s)


async def never(delivery):
    await pause(1e6)
    return []


async def send(node, **fields):
    return await node.bus.accept(node.message(**fields))
