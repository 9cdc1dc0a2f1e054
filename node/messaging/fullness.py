"""What clients are told when there is no room for their messages: why, what to do, and when to come again."""

from __future__ import annotations

from node.errors import ResourceLimitExceeded


def backlog_full(wanted: str, held: int) -> ResourceLimitExceeded:
    """The refusal of a message for ``wanted`` while so many wait on disk."""
    return ResourceLimitExceeded(
        "too many messages wait for whom is away",
        why=f"{held} messages wait on disk, those for {wanted} among them",
        fix="Bring the provider back, or raise messaging.backlog_capacity and messaging.backlog_limit.",
        details={"backlog": held, "wanted": wanted, "retry_after_s": 30},
    )


def outbox_full(held: int, size: int, capacity: int, retry_after_s: int) -> ResourceLimitExceeded:
    """The refusal of a message while so many, of so many bytes, are open."""
    return ResourceLimitExceeded(
        "the outbox is full",
        why=f"{held} messages ({size} bytes) have not been settled yet",
        fix="Wait for providers to catch up, add some, or raise messaging.outbox_capacity.",
        details={"open": held, "capacity": capacity, "retry_after_s": retry_after_s},
    )


def out_of_credit(wanted: str, waiting: int, retry_after_s: int) -> ResourceLimitExceeded:
    """The refusal of a message for ``wanted``, for whom so many wait that can take none now."""
    return ResourceLimitExceeded(
        f"too many messages wait for {wanted}",
        why=f"{waiting} have not been settled yet, and all who offer it have as many as they take",
        fix="Wait for its providers to catch up, or add some; what is for others is taken.",
        details={"open": waiting, "wanted": wanted, "retry_after_s": retry_after_s},
    )
