"""Moments in time as people write them, with zones by name or by city; no clock of its own.

Zones come from the system's time zone database (IANA). A day that is added keeps the time of day in its zone,
hours are hours that pass: both differ where clocks are changed.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, Final

from node.errors import ToolFailed, ValidationFailed, nearest

TEXT_LIMIT: Final = 64
"""Longest moment or zone, in characters."""
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", re.IGNORECASE)
_UTC: Final = ("utc", "z", "gmt", "zulu")


def zone_of(text: str) -> tzinfo:
    """A zone: ``UTC``, ``Europe/Berlin``, a city of the database (``Tokyo``, ``New York``), or ``+02:00``.

    Raises:
        ValidationFailed: there is no such zone.
        ToolFailed: this machine has no time zone database.
    """
    wanted = text.strip()
    if wanted.casefold() in _UTC:
        return UTC
    offset = _OFFSET.fullmatch(wanted)
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes < 24 * 60:
            return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    key = wanted.replace(" ", "_").casefold()
    names = _names()
    if not names:
        raise ToolFailed(
            "this machine has no time zone database",
            why="only UTC is known",
            fix="Install the package tzdata.",
        )
    found = names.get(key)
    if found is None:
        guess = nearest(key, names)
        raise ValidationFailed(
            f"there is no time zone {text[:TEXT_LIMIT]!r}",
            fix=f"Did you mean {names[guess]!r}?" if guess else "Use a name as Europe/Berlin, or UTC.",
        )
    return zoneinfo.ZoneInfo(found)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Every zone by its folded name, and by its city where only one zone has it."""
    full = sorted(zoneinfo.available_timezones())
    cities: dict[str, list[str]] = {}
    for name in full:
        area, _, city = name.rpartition("/")
        if area and not area.startswith(("Etc", "US", "posix", "right", "SystemV")):
            cities.setdefault(city.casefold(), []).append(name)
    single = {city: names[0] for city, names in cities.items() if len(names) == 1}
    return single | {name.casefold(): name for name in full}


def moment_of(text: str, zone: tzinfo, now: datetime) -> datetime:
    """A moment: ISO 8601 (``2026-03-01``, ``2026-03-01T12:30``, with or without an offset), or ``now``.

    Args:
        text: The moment.
        zone: Of a moment without an offset.
        now: What ``now`` is.

    Raises:
        ValidationFailed: it is none.
    """
    plain = text.strip()
    if plain.casefold() == "now":
        return now.astimezone(zone)
    try:
        found = datetime.fromisoformat(plain)
        return found.replace(tzinfo=zone) if found.tzinfo is None else found
    except ValueError:
        raise ValidationFailed(
            f"{text[:TEXT_LIMIT]!r} is no moment", fix="Write it as 2026-03-01T12:30, or now."
        ) from None


def told(moment: datetime) -> dict[str, Any]:
    """A moment as an answer, with a sentence.

    Raises:
        ValidationFailed: it lies beyond the calendar.
    """
    try:
        offset = moment.isoformat()[-6:]
        zone = str(moment.tzinfo)
        return {
            "time": moment.isoformat(timespec="seconds"),
            "zone": zone,
            "weekday": moment.strftime("%A"),
            "unix_s": int(moment.timestamp()),
            "facts": [f"{moment:%Y-%m-%d %H:%M:%S} ({moment:%A}) in {zone}, UTC{offset}"],
        }
    except (OverflowError, ValueError):
        raise _beyond() from None


def shifted(moment: datetime, *, days: int, seconds: int) -> datetime:
    """A moment so many days later at the same time of day, and then so many seconds later.

    Raises:
        ValidationFailed: it lies beyond the calendar.
    """
    try:
        by_day = moment + timedelta(days=days)
        return (by_day.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(moment.tzinfo)
    except (OverflowError, ValueError):
        raise _beyond() from None


def span(start: datetime, end: datetime) -> dict[str, Any]:
    """How long it is from one moment to another."""
    total = int((end.astimezone(UTC) - start.astimezone(UTC)).total_seconds())
    rest, parts = abs(total), []
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {name}{'s' if count != 1 else ''}")
    text = _listed(parts) or "no time"
    return {
        "seconds": total,
        "days": round(total / 86_400, 6),
        "facts": [text if total >= 0 else f"{text} earlier"],
    }


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _beyond() -> ValidationFailed:
    return ValidationFailed("that is beyond the calendar", why="it goes from the year 1 to the year 9999")
