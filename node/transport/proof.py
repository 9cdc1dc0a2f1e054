"""Who sent these messages: one signature per Deliver frame, which can be stored and checked years later.

The origin signs, with its long-term identity,

    domain("deliver") + CBOR([receiving node, [body hash, ...], hash of the envelopes])

so a frame cannot be shown to another node as if meant for it, and no byte of it can change. The proof
outlives the link: with it alone anyone who trusts the cluster authority can tell who sealed a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from node.message import body_hash
from node.transport.frames import Deliver, DeliverItem, envelopes_wire, rejected
from swim import strict_cbor
from swim.identity import Authority, Identity, domain, verify


@dataclass(frozen=True, slots=True)
class FrameProof:
    """What proves the origin of the messages of one frame.

    Args:
        credential: The origin's compact certificate.
        receiver: The node that the frame was for.
        hashes: ``node.message.body_hash`` of each message, in the frame's order.
        envelopes: BLAKE2b-256 of all envelopes.
        signature: The origin's, over all of it.
    """

    credential: bytes
    receiver: str
    hashes: tuple[bytes, ...]
    envelopes: bytes
    signature: bytes

    def origin(self, authority: Authority, wall: float) -> str | None:
        """The node that signed this, if its credential counts at ``wall`` (Unix seconds), or None."""
        admitted = authority.admit(self.credential, wall)
        if admitted is None:
            return None
        statement = _statement(self.receiver, self.hashes, self.envelopes)
        return admitted.name if verify(admitted.public_key, self.signature, statement) else None


def sign_deliver(identity: Identity, receiver: str, items: Sequence[DeliverItem]) -> Deliver:
    """A Deliver of ``items`` for the node ``receiver``, signed."""
    hashes = tuple(body_hash(item.sealed) for item in items)
    signature = identity.sign(_statement(receiver, hashes, _envelopes_hash(items)))
    return Deliver(tuple(items), identity.credential, signature)


def verify_deliver(
    frame: Deliver, *, receiver: str, origin: str, authority: Authority, wall: float
) -> FrameProof:
    """The proof of a frame that arrived.

    Args:
        frame: What arrived.
        receiver: This node.
        origin: The authenticated peer, who must have signed.
        authority: Whose credentials count.
        wall: Unix time in seconds.

    Raises:
        PeerRejected: it was altered, or is another node's, or for another node.
    """
    proof = FrameProof(
        frame.credential,
        receiver,
        tuple([body_hash(item.sealed) for item in frame.items]),
        _envelopes_hash(frame.items),
        frame.signature,
    )
    signer = proof.origin(authority, wall)
    if signer is None:
        raise rejected(
            "signature", f"a frame from {origin} is not signed by a node of this cluster, or was altered"
        )
    if signer != origin:
        raise rejected("signature", f"{origin} has sent a frame that {signer} signed")
    return proof


def _envelopes_hash(items: Sequence[DeliverItem]) -> bytes:
    return hashlib.blake2b(envelopes_wire(items), digest_size=32).digest()


def _statement(receiver: str, hashes: tuple[bytes, ...], envelopes: bytes) -> bytes:
    return domain("deliver") + strict_cbor.encode([receiver, list(hashes), envelopes])
