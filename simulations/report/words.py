"""Faults, exit codes and groups of members in words that fit onto a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from simulations.faults import Fault, write
from simulations.runner import CRASHED, INTERRUPTED, NOT_LIVE, NOT_SAFE, OK

MOST_NAMED: Final = 4
"""Members that are named one by one; of more only the first, and how many there are."""
MAX_WORDS: Final = 600
"""Characters of one text; what is longer is cut off."""
CODES: Final[Mapping[int, str]] = {
    OK: "everything held",
    CRASHED: "the code under test raised an exception",
    NOT_LIVE: "an eventually_ or finally_ property failed",
    NOT_SAFE: "an always_ property failed",
    INTERRUPTED: "Ctrl-C has ended it",
}


def cut(text: str, most: int = MAX_WORDS) -> str:
    """A text, shortened if it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def people(names: Sequence[str]) -> str:
    """Some members: by name if they are few."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 2])} and {len(names) - MOST_NAMED + 2} others"


def who(fault: Fault) -> str:
    """Whom a fault strikes."""
    (values,) = write(fault).values()
    if values.get("sides"):
        arrow = " ↛ " if values.get("mode") == "one_way" else " | "
        return arrow.join(people(side) for side in values["sides"])
    if values.get("pairs"):
        arrow = "↛" if values.get("mode") == "one_way" else "|"
        return people([f"{one} {arrow} {other}" for one, other in values["pairs"]])
    if fault.kind in _ALL:
        arrow = "↔" if values.get("both_ways") else "→"
        ends = [people(values[key]) if values.get(key) else "all" for key in ("sources", "targets")]
        return _ALL[fault.kind] if ends == ["all", "all"] else f" {arrow} ".join(ends)
    if "members" in values:
        return people(values["members"])
    return {"churn": "members at random", "jump": "all"}.get(fault.kind, "")


def how(fault: Fault) -> str:
    """What a fault does, beyond its kind; the empty string where its kind says everything."""
    (values,) = write(fault).values()
    told = [say(values[key]) for key, say in _SAID.items() if values.get(key) is not None]
    told += [f"{key} {value}" for key, value in values.items() if key not in _SAID and key not in _ELSEWHERE]
    return ", ".join(word for word in told if word)


def long(seconds: float) -> str:
    """A time of a run: in seconds, or in days, hours and minutes where it is long."""
    if seconds < 600:
        return f"{seconds:g} s"
    left = round(seconds)
    said: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        whole, left = divmod(left, size)
        if whole and len(said) < 3:
            said.append(f"{whole} {unit}")
    return " ".join(said)


def _seconds(value: Any) -> str:
    return f"{value * 1000:.4g} ms" if abs(value) < 1 else f"{value:.4g} s"


def _share(value: Any) -> str:
    return f"{value * 100:.3g} %"


def _range(value: Any) -> str:
    return f"{value[0]:g} to {value[1]:g} s"


_ALL: Final[Mapping[str, str]] = {"disturb": "all links", "reset": "all connections"}
"""Faults between sources and targets, and whom they strike where neither is named."""
_SAID: Final[Mapping[str, Callable[[Any], str]]] = {
    "power": lambda value: "with the machine" if value else "",
    "disk": lambda value: "" if value else "without the disk",
    "seeds": lambda value: "" if value else "without seeds",
    "moved": lambda value: "at another address" if value else "",
    "upgrade": lambda value: "with the next version" if value else "",
    "datagrams_only": lambda value: "datagrams only" if value else "",
    "mode": lambda value: "one way" if value == "one_way" else "",
    "loss": lambda value: f"{_share(value)} lost",
    "delay_s": lambda value: f"{_seconds(value)} later",
    "jitter_s": lambda value: f"up to {_seconds(value)} jitter",
    "tail_s": lambda value: f"delays with a tail of {_seconds(value)}",
    "sigma": lambda value: f"delays spread by {value:g}",
    "duplicate": lambda value: f"{_share(value)} twice",
    "reorder": lambda value: f"{_share(value)} overtaken",
    "corrupt": lambda value: f"{_share(value)} altered",
    "capacity_bytes_s": lambda value: f"{value:g} bytes a second",
    "rate": lambda value: f"clock at {value:g} of its rate",
    "wall_offset_s": lambda value: f"wall clock {value:+g} s off",
    "per_s": lambda value: f"{value:g} a second",
    "down_s": lambda value: f"gone for {_range(value)}",
    "running_s": lambda value: f"runs {_seconds(value)} at a time",
    "paused_s": lambda value: f"stands still for {_range(value)}",
    "takes_s": lambda value: f"takes {_seconds(value)} on average",
    "raises": lambda value: f"raises on {_share(value)}",
    "rate_limited": lambda value: f"{_share(value)} refused for now",
    "timeout": lambda value: f"{_share(value)} not answered in time",
    "cut": lambda value: f"{_share(value)} broken off",
    "malformed": lambda value: f"{_share(value)} malformed",
    "full": lambda value: "full" if value else "",
    "sync_fails": lambda value: "cannot synchronise" if value else "",
    "read_fails": lambda value: "cannot be read" if value else "",
    "read_s": lambda value: f"{_seconds(value)} per read",
    "write_s": lambda value: f"{_seconds(value)} per write",
    "sync_s": lambda value: f"{_seconds(value)} per synchronisation",
    "to_s": lambda value: f"to {long(value)}",
}
"""By the key of a fault, in this order; a key that is not among them is told as it is."""
_ELSEWHERE: Final = frozenset({
    "members", "sources", "targets", "both_ways", "sides", "pairs", "at_s", "for_s", "excuses",
})  # fmt: skip
"""Keys that say who and when, and what only the properties care about."""
