"""The message bus: routing, outbox, inbox, mailboxes, conversations, dead letters."""
