"""The parts of a member that hold keys, with their answers noted on a tape and their keys not.

What is noted is in :mod:`node.recording.membership`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from node.recording.tape import CoreTape
from swim.events import Event, KeyringChanged
from swim.identity import Identity
from swim.key_rotation import KeyRotation, Owner
from swim.keyring import Channel, Keyring
from swim.keyring_messages import Verb, key_id
from swim.members import MemberTable, Record
from swim.messages import DecodeError, Message, UserFrame
from swim.pairwise import Agree, Pairwise, Tagged
from swim.vault import Vault

T = TypeVar("T")

SEALED_HEADER_BYTES: Final = 20
SEALED_TAG_BYTES: Final = 16
ROTATION: Final = "rotation"
"""What came of a call of the part that rotates keys: frames sent, events, when it is due, result, error."""
_ID_BYTES: Final = 4


def named(key: bytes) -> bytes:
    """The id of a gossip key in the place of the key; an id stays one."""
    return bytes.fromhex(key_id(key)) if len(key) > _ID_BYTES else key


def without_key(event: Event) -> Event:
    """An event of membership with the id of a gossip key in the place of the key."""
    return replace(event, key=named(event.key)) if isinstance(event, KeyringChanged) else event


class Seals:
    """The packets that were sealed in a step, and what stands for each in the recording."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, bytes]] = deque()

    def note(self, sealed: bytes, shown: bytes) -> None:
        """A packet was sealed."""
        self._waiting.append((sealed, shown))

    def shown(self, data: bytes) -> bytes:
        """What is sent, with what stands for the packet in it; they are sent in the order they are sealed."""
        if self._waiting and data.endswith(self._waiting[0][0]):
            sealed, shown = self._waiting.popleft()
            return data[: len(data) - len(sealed)] + shown
        return data

    def clear(self) -> None:
        """The step is over."""
        self._waiting.clear()


class NotedVault(Vault):
    """Builds the parts that hold keys so that their answers are noted, and their keys are not.

    Args:
        tape: Where.
        seals: Told of each packet that is sealed.
        entropy: Returns random bytes, unseen by the tape.
    """

    def __init__(self, tape: CoreTape, seals: Seals, entropy: Callable[[int], bytes]) -> None:
        self._tape, self._seals, self._entropy = tape, seals, entropy

    def keyring(
        self,
        keys: Sequence[bytes],
        *,
        label: str,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int],
    ) -> Keyring:
        """Build what seals packets."""
        del entropy
        return NotedKeyring(
            self._tape, self._seals, keys, label=label, entropy=self._entropy, versions=versions
        )

    def pairwise(self, name: str, label: str, entropy: Callable[[int], bytes], *, agree: Agree) -> Pairwise:
        """Build what tags probes."""
        del entropy
        return NotedPairwise(self._tape, name, label, self._entropy, agree=agree)

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
        del entropy
        return NotedRotation(
            self._tape, identity, owner,
            ring=ring, table=table, pairwise=pairwise, entropy=self._entropy, events=events,
        )  # fmt: skip


class NotedKeyring(Keyring):
    """Seals and opens, and notes it; see ``swim.keyring.Keyring``."""

    def __init__(
        self,
        tape: CoreTape,
        seals: Seals,
        keys: Sequence[bytes],
        *,
        label: str,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int],
    ) -> None:
        super().__init__(keys, label=label, entropy=entropy, versions=versions)
        self._tape, self._seals = tape, seals

    def seal(self, channel: Channel, body: bytes) -> bytes:
        """Encrypt a body."""
        sealed = super().seal(channel, body)
        if self._tape.listening:
            header = sealed[:SEALED_HEADER_BYTES]
            self._tape.draw("seal", b"", lambda: header)
            self._seals.note(sealed, stands_for(header, body))
        return sealed

    def open(self, channel: Channel, data: bytes) -> bytes:
        """Decrypt a body; what was refused is noted by its reason."""
        opened = self._tape.draw("open", b"", lambda: self._opened(channel, data))
        if isinstance(opened, str):
            raise DecodeError(opened)
        return opened

    def _opened(self, channel: Channel, data: bytes) -> bytes | str:
        try:
            return super().open(channel, data)
        except DecodeError as error:
            return error.reason


def stands_for(header: bytes, body: bytes) -> bytes:
    """What stands for a sealed packet: as long as it is, and open."""
    return header + body + bytes(SEALED_TAG_BYTES)


class NotedPairwise(Pairwise):
    """Tags and checks tags, and notes it; see ``swim.pairwise.Pairwise``."""

    def __init__(
        self, tape: CoreTape, name: str, label: str, entropy: Callable[[int], bytes], *, agree: Agree
    ) -> None:
        super().__init__(name, label, entropy, agree=agree)
        self._tape = tape
        tape.draw("exchange key", b"", lambda: self.public_key)

    def tag(self, message: Tagged, other: bytes) -> bytes:
        """Return the tag of a message."""
        tagged = super().tag
        return self._tape.draw("tag", b"", lambda: tagged(message, other))

    def is_from(self, message: Tagged, sender: str, other: bytes) -> bool:
        """Say whether a message carries the tag of ``sender``."""
        checked = super().is_from
        return self._tape.draw("is from", sender.encode(), lambda: checked(message, sender, other))


class _Sends:
    """The protocol around the rotation of keys; holds back what is sent while its answer is made."""

    def __init__(self, owner: Owner) -> None:
        self.name = owner.name
        self.holding = False
        self._owner = owner
        self._held: list[tuple[Record, UserFrame]] = []

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages in a datagram, or hold them back."""
        if not self.holding:
            self._owner.send(record, messages, statements=statements)
            return
        self._held += [(record, message) for message in messages if isinstance(message, UserFrame)]

    def is_by(self, author: str, signed: bytes, signature: bytes) -> bool:
        """Say whether a member's key made a signature."""
        return self._owner.is_by(author, signed, signature)

    def take(self) -> list[tuple[Record, UserFrame]]:
        """What was held back."""
        held, self._held = self._held, []
        return held


class NotedRotation(KeyRotation):
    """Rotates the keyring, and notes what came of each call; see ``swim.key_rotation.KeyRotation``.

    All that happens inside is one answer, because every part of it has to do with keys.
    """

    def __init__(
        self,
        tape: CoreTape,
        identity: Identity,
        owner: Owner,
        *,
        ring: Keyring | None,
        table: MemberTable,
        pairwise: Pairwise,
        entropy: Callable[[int], bytes],
        events: list[Event],
    ) -> None:
        self._tape, self._sends = tape, _Sends(owner)
        self._told = events
        self._due: float | None = None
        super().__init__(
            identity, self._sends,
            ring=ring, table=table, pairwise=pairwise, entropy=entropy, events=events,
        )  # fmt: skip

    def start(
        self, verb: Verb, key: bytes, now: float, *, deadline_s: float = 30.0, force: bool = False
    ) -> bytes:
        """Begin an operation; return its id."""
        begin = super().start
        return self._noted("start", lambda: begin(verb, key, now, deadline_s=deadline_s, force=force))

    def take(self, frame: UserFrame, now: float) -> None:
        """Take a sealed request or result."""
        take = super().take
        self._noted("take", lambda: take(frame, now))

    def handle_timer(self, now: float) -> None:
        """Ask again who has not answered."""
        handle_timer = super().handle_timer
        self._noted("timer", lambda: handle_timer(now))

    def _noted(self, what: str, call: Callable[[], T]) -> T:
        if not self._tape.listening:
            return call()
        told, error = len(self._told), ""
        self._sends.holding = True
        result: Any = None
        try:
            with self._tape.muted():
                result = call()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            raise
        finally:
            self._sends.holding = False
            sends = self._sends.take()
            self._note(what, sends, self._told[told:], result, error)
            for record, frame in sends:
                self._sends.send(record, [frame])
        return result  # type: ignore[no-any-return]

    def _note(
        self,
        what: str,
        sends: Sequence[tuple[Record, UserFrame]],
        events: Sequence[Event],
        result: bytes | None,
        error: str,
    ) -> None:
        """Note what came of a call; most calls find nothing to do."""
        due = super().next_timer()
        if not sends and not events and due == self._due and not error and result is None:
            return
        self._due = due
        frames = [[record.name, int(frame.kind), frame.frame] for record, frame in sends]
        told = [without_key(event) for event in events]
        self._tape.draw(ROTATION, what.encode(), lambda: [frames, told, due, result, error])
