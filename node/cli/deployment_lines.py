"""A deployment in one line, as several verbs print it."""

from __future__ import annotations

from typing import Any


def line_of(found: dict[str, Any]) -> str:
    """What is wanted, what runs, and why not."""
    where = ", ".join(each["node"] for each in found["nodes"] if each["state"] == "running")
    line = f"{found['name']} {found['version']}: {found['running']} of {found['replicas']} run"
    line += f" on {where}" if where else ""
    return line + (f"; {found['why']}" if found["why"] else "")
