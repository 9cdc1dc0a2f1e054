"""What an agent file can grant to a WebAssembly guest beside replying and logging."""

from __future__ import annotations

from enum import StrEnum


class Grant(StrEnum):
    """A part of the host; what is not granted is not linked."""

    CLOCK = "clock"
    RANDOM = "random"
    STATE = "state"
    TIMERS = "timers"
    MESSAGES = "messages"
    BROADCAST = "broadcast"
    MEMORY = "memory"
    TOOLS = "tools"
