"""Messages between agents: acceptance, routing, delivery with two acknowledgements, conversations.

Imported module by module (``node.messaging.bus``, ``node.messaging.delivery``): agents need the second only.
"""
