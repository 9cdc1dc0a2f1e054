"""A mailbox on replay: which message is next, out of the same messages in the same order."""

from __future__ import annotations

from typing import Any

from node.message import Message
from node.messaging.mailboxes import Entry, Mailbox
from node.messaging.recording import BEGIN, MAILBOX, MAILBOX_VERSION, mailbox_outputs, taken_shown
from node.recording.values import UnknownValue
from node.vocabulary import Performative
from simulations.recording.tape import ReplayTape


class MailboxReplay:
    """One agent's mailbox that does again what it did.

    Args:
        tape: Not asked: a mailbox asks nothing.
    """

    name = MAILBOX
    version = MAILBOX_VERSION

    def __init__(self, tape: ReplayTape) -> None:
        self.tape = tape
        self._mailbox: Mailbox | None = None
        self._entries: dict[int, Entry] = {}

    def do(self, verb: str, arguments: Any) -> Any:
        """Call a verb as it was called; return what of its result is compared.

        Raises:
            UnknownValue: this version has no such verb, or its arguments are others.
        """
        mailbox = self._mailbox
        if mailbox is None:
            if verb != BEGIN or not isinstance(arguments, int):
                raise UnknownValue("a mailbox is built first, with its capacity")
            self._mailbox = Mailbox(arguments)
            return None
        match verb, arguments:
            case "offer", (given,):
                return mailbox.offer(self._entry(given))
            case "refill", (tuple(several), bool() as exhausted):
                return mailbox.refill([self._entry(given) for given in several], exhausted=exhausted)
            case "raise_epoch", (int() as seq, int() as epoch):
                return mailbox.raise_epoch(seq, epoch)
            case "take", ():
                return taken_shown(mailbox.take())
            case "done", (int() as seq,) if seq in self._entries:
                return mailbox.done(self._entries[seq])
            case "forget", (int() as seq,) if seq in self._entries:
                return mailbox.forget(self._entries.pop(seq))
        raise UnknownValue(f"this version cannot do {verb!r} with what the recording has for it")

    def finish(self, outputs: list[Any]) -> None:
        """Add how the mailbox stands."""
        if self._mailbox is not None:
            mailbox_outputs(self._mailbox, outputs)

    def _entry(self, given: Any) -> Entry:
        """A message with what a mailbox looks at, and nothing else."""
        match given:
            case (int() as seq, str() as conversation, str() as sender, int() as priority, int() as epoch):
                message = Message(
                    id=str(seq),
                    performative=Performative.INFORM,
                    sender=sender,
                    receiver=MAILBOX,
                    content=None,
                    conversation_id=conversation,
                    reply_with=str(seq),
                    priority=priority,
                    timestamp_s=0.0,
                )
                entry = Entry(seq, "", message, epoch, 0, 0, 0.0, "")
                self._entries.setdefault(seq, entry)
                return entry
        raise UnknownValue("an entry of a mailbox is of five fields")
