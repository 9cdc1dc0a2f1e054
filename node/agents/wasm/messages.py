"""Messages as guests read and write them: JSON, without blanks between its tokens."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from node.agents.grants import Grant
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import Phase, Way
from node.agents.wasm.policy import WasmPolicy
from node.errors import ValidationFailed
from node.message import CONTENT_DEPTH_LIMIT, Message
from node.messaging.delivery import Draft
from node.vocabulary import TEXT_LIMIT, Performative, RoutingStrategy

_ADDRESSES: Final = ("receiver", "capability", "topic")
_FIELDS: Final = frozenset(("performative", "content", "protocol", *_ADDRESSES))


def guest_message(message: Message) -> bytes:
    """The public form of a message, always with content, attachments with their data."""
    shown = message.as_json() | {"content": message.content}
    files: list[dict[str, Any]] = []
    for attachment in message.attachments:
        entry: dict[str, Any] = {"name": attachment.name, "media_type": attachment.media_type}
        try:
            entry["text"] = attachment.data.decode()
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(attachment.data).decode()
        files.append(entry)
    if files:
        shown["attachments"] = files
    return msgspec.json.encode(shown)


@dataclass(frozen=True, slots=True)
class Sending:
    """From where and under which rules a guest sends.

    Args:
        node: The name of this node.
        policy: What is granted.
        phase: What the guest was called for; in a timer there is nobody to reply to.
    """

    node: str
    policy: WasmPolicy
    phase: Phase

    def draft(self, way: Way, data: bytes) -> Draft:
        """Read what a guest sent.

        Raises:
            GuestFailed: it is not JSON of the right form, or not granted.
        """
        try:
            return self._draft(way, _read(data))
        except ValidationFailed as error:
            raise GuestFailed("message", f"the module sent no message: {error.why}") from None

    def _draft(self, way: Way, value: dict[str, Any]) -> Draft:
        named = [name for name in _ADDRESSES if value.get(name) is not None]
        receiver = value.get("receiver")
        if len(named) > 1:
            raise _wrong("at most one of receiver, capability and topic can be given")
        if way is Way.BROADCAST and named != ["capability"]:
            raise _wrong("broadcast_message needs a capability")
        if way is Way.LOCAL:
            if receiver is None or "@" in receiver:
                raise _wrong("send_local_message needs a receiver on this node, without '@'")
            receiver = f"{receiver}@{self.node}"
        if not named and self.phase is Phase.TIMER:
            raise _wrong("in handle_timer a message needs a receiver, a capability or a topic")
        if named and way is Way.SEND and Grant.MESSAGES not in self.policy.grants:
            raise GuestFailed(
                "grants",
                "it sent a message to others, which its agent file does not grant (wasm.grants: [messages])",
            )
        return Draft(
            Performative.parse(value["performative"]),
            value.get("content"),
            receiver=receiver,
            capability=value.get("capability"),
            topic=value.get("topic"),
            protocol=value.get("protocol"),
            routing_strategy=RoutingStrategy.BROADCAST
            if way is Way.BROADCAST
            else RoutingStrategy.BEST_MATCH,
        )


def is_reply(draft: Draft) -> bool:
    """Whether it goes back to the sender."""
    return draft.receiver is None and draft.capability is None and draft.topic is None


def _read(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _wrong("it is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("performative"), str):
        raise _wrong("it is no object with a performative")
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        raise _wrong(f"it has the unknown field {unknown[0][:80]!r}")
    texts = [value.get(key) for key in (*_ADDRESSES, "protocol")]
    if not all(text is None or (isinstance(text, str) and len(text) <= TEXT_LIMIT) for text in texts):
        raise _wrong("receiver, capability, topic and protocol are texts")
    if _depth(value.get("content")) > CONTENT_DEPTH_LIMIT:
        raise _wrong(f"nested deeper than {CONTENT_DEPTH_LIMIT}")
    return value


def _wrong(why: str) -> ValidationFailed:
    return ValidationFailed("not a message", why=why)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            item
            for entry in level
            if isinstance(entry, dict | list)
            for item in (entry.values() if isinstance(entry, dict) else entry)
        ]
        depth += 1
    return depth
