"""The roll: a hash tree over the latest words of all who are up, and how two members compare theirs.

The roll holds the digest of each Alive (this member's own included) and leaves it when its subject dies or
leaves. Its root rides on probes, mixed with the root of the replicated map. Members whose roots differ
descend both trees inside single packets (`swim.anti_entropy`): so an Alive that every rumour missed is
found and repaired with a few small packets, and nothing is exchanged between members that agree. A member
that holds something against a word it is shown (a Dead, a Left, a later word) answers with that.

The frames are those of the map, without a horizon. Large differences, those of a newcomer say, are left to
a stream.
"""

import random
from collections.abc import Callable
from typing import Final

from swim.anti_entropy import MAX_SLOTS_DIGEST_BYTES, PUSH, AntiEntropy, decode
from swim.hashtree import DIGEST_BYTES
from swim.members import MemberTable, digest_of

MAX_FRAME_BYTES: Final = 1_150
"""Largest frame, so that it fits a datagram."""


class Roll:
    """Compares this member's roll with those of others.

    Args:
        table: holds the tree, and the words by their digests.
        own_word: returns this member's own encoded Alive.
        rng: where repair begins when not everything fits into a reply.
    """

    def __init__(self, table: MemberTable, own_word: Callable[[], bytes], rng: random.Random) -> None:
        self._table = table
        self._own_word = own_word
        self._frames = self._words = 0
        self._repair = AntiEntropy(
            table.roll,
            fetch=self._fetch,
            rng=rng,
            max_frame_bytes=MAX_FRAME_BYTES,
        )

    def root(self) -> bytes:
        """Return the 8 bytes that stand for all who are up."""
        return self._table.roll.root

    def opening(self) -> list[bytes]:
        """Return the frames that begin a comparison with a peer whose root differs."""
        return self._repair.opening()

    def receive(self, frame: bytes) -> tuple[list[bytes], list[bytes]]:
        """Take one frame of a peer.

        Returns:
            The encoded words in it, which are the receiver's to judge; and the frames that answer it.

        Raises:
            ValueError: if it is no such frame.
        """
        decoded = decode(frame, max_bytes=MAX_FRAME_BYTES)
        words = list(decoded.units) if decoded.kind == PUSH else []
        self._frames += 1
        self._words += len(words)
        return words, self._repair.answer(decoded)

    def push(self, words: list[bytes]) -> list[bytes]:
        """Return frames with words for a peer that lacks them."""
        return self._repair.push_all(words, MAX_FRAME_BYTES)

    def slots(self) -> bytes:
        """Return the digest of the whole roll that opens a comparison over a stream: at most 41 kB."""
        return self._repair.slots()

    def missing(self, digest: bytes) -> list[bytes]:
        """Return all words of the slots in which the sender of a digest differs.

        Raises:
            ValueError: if it is no such digest.
        """
        digests = self._repair.differing(decode(digest, max_bytes=MAX_SLOTS_DIGEST_BYTES))
        return [word for found in digests if (word := self._fetch(found)) is not None]

    def statistics(self) -> dict[str, int]:
        """Count the frames of peers, and the words in them."""
        return {"roll_frames_received": self._frames, "roll_words_received": self._words}

    def _fetch(self, digest: bytes) -> bytes | None:
        record = self._table.by_digest(digest)
        if record is not None:
            return record.encoded
        own = self._own_word()
        return own if own and digest_of(own) == digest else None


def mixed(roll_root: bytes, map_root: bytes) -> bytes:
    """Return the root that rides on probes: equal only where both roots are."""
    return (int.from_bytes(roll_root, "big") ^ int.from_bytes(map_root, "big")).to_bytes(DIGEST_BYTES, "big")
