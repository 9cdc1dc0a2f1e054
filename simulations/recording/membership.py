"""Membership and maps on replay: the production core, with the record in the place of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from node.recording.chance import generator
from node.recording.membership import (
    BEGIN,
    CORE,
    MAP_VERBS,
    START_ROTATION,
    SWIM_VERBS,
    TRAFFIC_VERBS,
    VERSION,
    Beginning,
    build_member,
    outputs_of,
)
from node.recording.values import UnknownValue
from node.recording.vault import ROTATION, SEALED_HEADER_BYTES, Seals, stands_for
from simulations.recording.tape import ReplayTape
from swim.config import SwimConfig
from swim.events import Event, KeyOperationFinished, KeyringChanged
from swim.identity import ClusterAuthority, Identity
from swim.key_rotation import KeyRotation, Owner
from swim.keyring import KEY_BYTES, Channel, Keyring
from swim.keyring_messages import Verb
from swim.keyring_operations import OperationRunning
from swim.members import MemberTable
from swim.messages import Boot, DecodeError, UserFrame
from swim.pairwise import Agree, Pairwise, Tagged
from swim.protocol import Swim
from swim.queries import Asked
from swim.query_messages import Question
from swim.vault import Vault

CLASSES: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        Asked, Beginning, Boot, KeyOperationFinished, KeyringChanged, Question, SwimConfig, Verb,
    )
}  # fmt: skip
"""What arguments and answers may be built of."""


class MemberReplay:
    """One member that does again what it did.

    Args:
        tape: Answers it.
    """

    name = CORE
    version = VERSION

    def __init__(self, tape: ReplayTape) -> None:
        self.tape = tape
        self._swim: Swim | None = None
        self._verbs: dict[str, Callable[..., Any]] = {}

    def do(self, verb: str, arguments: Any) -> Any:
        """Call a verb as it was called.

        Raises:
            UnknownValue: this version has no such verb, or its arguments are others.
        """
        if verb == BEGIN:
            self._begin(arguments)
            return None
        call = self._verbs.get(verb)
        match arguments:
            case (float() | int() as offset, tuple(given), dict(named)) if call and self._swim is not None:
                self._swim.wall_offset = offset
                return call(*given, **named)
        raise UnknownValue(f"this version cannot do {verb!r} with what the recording has for it")

    def finish(self, outputs: list[Any]) -> None:
        """Add what the verb left behind in the core; nothing of it is told before it is built."""
        if self._swim is None:
            return
        if self._verbs:
            swim = self._swim
            outputs += outputs_of(swim.effects(), swim.events(), swim.next_timer(), Seals())
        else:
            self._bind(self._swim)

    def _bind(self, swim: Swim) -> None:
        for target, table in ((swim, SWIM_VERBS), (swim.traffic, TRAFFIC_VERBS), (self._maps, MAP_VERBS)):
            self._verbs |= {verb: getattr(target, method) for method, verb in table.items()}
        self._verbs[START_ROTATION] = swim.keys.start

    def _begin(self, beginning: Any) -> None:
        if not isinstance(beginning, Beginning) or self._swim is not None:
            raise UnknownValue("a member begins once, with what it is built from")
        authority = ClusterAuthority(beginning.ca_public_key, beginning.cluster)
        self._swim, self._maps = build_member(
            self.tape,
            beginning,
            authority,
            chance=generator(beginning.chance),
            map_chance=generator(beginning.map_chance),
            sign=_unasked,
            entropy=_unasked,
            gossip_keys=[bytes(KEY_BYTES)] if beginning.encrypted else [],
            vault=ReplayVault(self.tape),
        )


def _unasked(_: object) -> bytes:
    raise UnknownValue("the record answers this")


class ReplayVault(Vault):
    """Builds the parts that hold keys, in production, with answers of the record instead.

    Args:
        tape: The record.
    """

    def __init__(self, tape: ReplayTape) -> None:
        self._tape = tape

    def keyring(
        self,
        keys: Sequence[bytes],
        *,
        label: str,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int],
    ) -> Keyring:
        """Build what stands for the seals of packets."""
        del entropy
        return ReplayKeyring(self._tape, keys, label=label, versions=versions)

    def pairwise(self, name: str, label: str, entropy: Callable[[int], bytes], *, agree: Agree) -> Pairwise:
        """Build what knows the tags of probes."""
        del entropy
        return ReplayPairwise(self._tape, name, label, agree=agree)

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
        """Build what knows what became of the keyring."""
        return ReplayRotation(
            self._tape, identity, owner,
            ring=ring, table=table, pairwise=pairwise, entropy=entropy, events=events,
        )  # fmt: skip


class ReplayKeyring(Keyring):
    """Leaves packets open, and knows what those were that came."""

    def __init__(
        self, tape: ReplayTape, keys: Sequence[bytes], *, label: str, versions: tuple[int, int]
    ) -> None:
        super().__init__(keys, label=label, entropy=bytes, versions=versions)
        self._tape = tape

    def seal(self, channel: Channel, body: bytes) -> bytes:
        """What stands for the sealed packet: key, boot and counter as recorded, and the body in the open."""
        header = self._tape.draw("seal", b"", bytes)
        return stands_for(
            bytes((self.speaks, header[1] & 0xF0 | channel)) + header[2:SEALED_HEADER_BYTES], body
        )

    def open(self, channel: Channel, data: bytes) -> bytes:
        """The body that was found in a packet, or the reason for which it was refused."""
        opened: bytes | str = self._tape.draw("open", b"", bytes)
        if isinstance(opened, str):
            raise DecodeError(opened)
        return opened


class ReplayPairwise(Pairwise):
    """Knows the tags that were made, and which of those that came were right."""

    def __init__(self, tape: ReplayTape, name: str, label: str, *, agree: Agree) -> None:
        super().__init__(name, label, bytes, agree=agree)
        self._tape = tape
        self.public_key = tape.draw("exchange key", b"", bytes)

    def tag(self, message: Tagged, other: bytes) -> bytes:
        """The tag that was made next."""
        return self._tape.draw("tag", b"", bytes)

    def is_from(self, message: Tagged, sender: str, other: bytes) -> bool:
        """Whether the tag was right."""
        return self._tape.draw("is from", sender.encode(), bool)


class ReplayRotation(KeyRotation):
    """Knows what came of each call: what was sent, told, and when the next is due."""

    def __init__(
        self,
        tape: ReplayTape,
        identity: Identity,
        owner: Owner,
        *,
        ring: Keyring | None,
        table: MemberTable,
        pairwise: Pairwise,
        entropy: Callable[[int], bytes],
        events: list[Event],
    ) -> None:
        super().__init__(
            identity, owner, ring=ring, table=table, pairwise=pairwise, entropy=entropy, events=events
        )
        self._tape, self._known, self._around, self._told = tape, table, owner, events
        self._due: float | None = None

    def start(
        self, verb: Verb, key: bytes, now: float, *, deadline_s: float = 30.0, force: bool = False
    ) -> bytes:
        """Begin an operation; return its id."""
        started = self._again("start")
        return started if isinstance(started, bytes) else b""

    def take(self, frame: UserFrame, now: float) -> None:
        """Take a sealed request or result."""
        self._again("take")

    def handle_timer(self, now: float) -> None:
        """Ask again who has not answered."""
        self._again("timer")

    def next_timer(self) -> float | None:
        """When somebody was to be asked again."""
        return self._due

    def _again(self, what: str) -> Any:
        if not self._tape.next_is(ROTATION, what.encode()):
            return None  # nothing came of it
        answer: Any = self._tape.draw(ROTATION, what.encode(), list)
        frames, told, self._due, result, error = answer
        self._told += told
        for name, kind, frame in frames:
            record = self._known.get(name)
            if record is not None:
                self._around.send(record, [UserFrame(kind, frame)])
        if error.startswith(OperationRunning.__name__):
            raise OperationRunning
        if error:
            raise ValueError(error.partition(": ")[2])
        return result
