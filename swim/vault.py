"""The parts of a member that hold secret keys, built in one place.

Packets are sealed under gossip keys (`swim.keyring`), probes are tagged under the keys of pairs
(`swim.pairwise`), and the gossip keys themselves travel sealed for one member (`swim.key_rotation`). Who
watches a member from outside, to record what it does, replaces these three and nothing else, and so has no
key in what it writes.
"""

from collections.abc import Callable, Sequence

from swim.events import Event
from swim.identity import Identity
from swim.key_rotation import KeyRotation, Owner
from swim.keyring import Keyring
from swim.members import MemberTable
from swim.pairwise import Agree, Pairwise


class Vault:
    """Builds the parts that hold secret keys; arguments are those of the parts."""

    def keyring(
        self,
        keys: Sequence[bytes],
        *,
        label: str,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int],
    ) -> Keyring:
        """Build what seals packets."""
        return Keyring(keys, label=label, entropy=entropy, versions=versions)

    def pairwise(self, name: str, label: str, entropy: Callable[[int], bytes], *, agree: Agree) -> Pairwise:
        """Build what tags probes."""
        return Pairwise(name, label, entropy, agree=agree)

    def rotation(
        self,
        identity: Identity,
        owner: Owner,
        *,
        ring: Keyring | None,
        table: MemberTable,
        pairwise: Pairwise,
        entropy: Callable[[int], bytes],
        events: list[Event],
    ) -> KeyRotation:
        """Build what rotates the keyring."""
        return KeyRotation(
            identity, owner, ring=ring, table=table, pairwise=pairwise, entropy=entropy, events=events
        )


OPEN_VAULT = Vault()
"""Builds the parts as they are."""
