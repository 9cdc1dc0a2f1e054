"""What click finds wrong with a command line, in the words of everything else: what, why, and how to fix it.

Click says "Invalid value for '--timeout': 'abc' is not a valid float range". A finding that is not in here,
as one that a verb words itself, is told as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

from node.errors import nearest

_UNREAD: Final = re.compile(r"^(?P<value>.+) is not (?:a valid|in the range) ", re.DOTALL)
_NEEDS_VALUE: Final = re.compile(r"^Option '(?P<option>[^']+)' requires (?:an|\d+) arguments?\.?$")
_TOO_MANY: Final = re.compile(r"^Got unexpected extra arguments? \((?P<given>.*)\)\.?$", re.DOTALL)
_NO_VALUE: Final = re.compile(r"^Option '(?P<option>[^']+)' does not take a value\.?$")
_PATHS: Final = (
    ("does not exist", "nothing is there"),
    ("is a directory", "it is a directory"),
    ("is a file", "it is a file"),
    ("is not readable", "it may not be read"),
    ("is not writable", "it may not be written"),
)
"""The end of what click says of a path -> why it will not do."""


def told(error: click.ClickException) -> tuple[str, str, str | None]:
    """What is wrong, why, and the nearest word that would be right, if one is near."""
    for kind, tell in _KINDS:
        if isinstance(error, kind):
            return tell(error)
    return _plain(error.format_message())


def _no_command(error: Any) -> tuple[str, str, str | None]:
    context = error.ctx
    place = "caxton" if context is None else context.command_path
    guess = next(iter(error.possibilities or ()), None)
    return f"`{place}` has no verb {error.command_name!r}", "", guess


def _no_option(error: Any) -> tuple[str, str, str | None]:
    guess = next(iter(error.possibilities or ()), None)
    return f"there is no option {error.option_name}", "", guess


def _missing(error: Any) -> tuple[str, str, str | None]:
    return f"{_name(error)} is missing", "", None


def _bad_value(error: Any) -> tuple[str, str, str | None]:
    name, kind, message = _name(error), getattr(error.param, "type", None), error.message
    read = _UNREAD.match(message)
    if isinstance(kind, click.Choice):
        value = message.partition(" is not one of ")[0].strip("'")
        choices = [str(choice) for choice in kind.choices]
        return f"{name} cannot be {value!r}", f"it is one of {', '.join(choices)}", nearest(value, choices)
    if read and isinstance(kind, click.IntRange | click.FloatRange):
        return f"{name} cannot be {read['value']}", f"it is {_kind_of(kind)}{_range_of(kind)}", None
    if read and isinstance(kind, type(click.INT) | type(click.FLOAT)):
        return f"{name} cannot be {read['value']}", f"it is {_kind_of(kind)}", None
    if isinstance(kind, click.Path):
        for end, why in _PATHS:
            if message.rstrip(".").endswith(end):
                value = message.rstrip(".").removesuffix(f" {end}").partition(" ")[2]
                return f"{name} cannot be {value}", why, None
    return f"{name} is not valid: {message}", "", None


def _plain(message: str) -> tuple[str, str, str | None]:
    found = _NEEDS_VALUE.match(message)
    if found:
        return f"{found['option']} needs a value", "", None
    found = _NO_VALUE.match(message)
    if found:
        return f"{found['option']} takes no value", "", None
    found = _TOO_MANY.match(message)
    if found:
        return f"too many arguments: {found['given']}", "", None
    return message.rstrip("."), "", None


def _name(error: Any) -> str:
    """How a parameter is called by who writes it: ``--timeout``, or ``FILE``."""
    param = error.param
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    if isinstance(param, click.Argument):
        shown = param.metavar or ""
        plain = shown.strip("[]").removesuffix("...")
        return plain if plain.isupper() else (param.name or "an argument").upper()
    return str(error.param_hint or "an argument").strip("'")


def _kind_of(kind: Any) -> str:
    return "a whole number" if isinstance(kind, type(click.INT)) else "a number"


def _range_of(kind: Any) -> str:
    if kind.min is not None and kind.max is not None:
        return f" from {kind.min:,} to {kind.max:,}"
    return f" of at least {kind.min:,}" if kind.min is not None else f" of at most {kind.max:,}"


_KINDS: Final[tuple[tuple[type[click.ClickException], Callable[[Any], tuple[str, str, str | None]]], ...]] = (
    (click.exceptions.NoSuchCommand, _no_command),
    (click.NoSuchOption, _no_option),
    (click.MissingParameter, _missing),
    (click.BadParameter, _bad_value),
)
"""Kind of finding -> who words it; the first that fits."""
