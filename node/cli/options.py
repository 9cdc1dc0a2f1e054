"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def node_options(function: F) -> F:
    """How to find the node that a verb talks to, and to speak for whom, and how to show what it says."""
    decorated: F = target_options(json_option(function))
    return decorated


def target_options(function: F) -> F:
    """How to find the node that a verb talks to, and to speak for whom."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File that holds the token.",
        ),
        click.option("--token", envvar="CAXTON_TOKEN", help="Bearer token (or CAXTON_TOKEN)."),
        click.option("--node", "node_name", metavar="NAME", help="Which local node, when there are several."),
        click.option(
            "--api", envvar="CAXTON_API", metavar="URL", help="Admin API of a node (or CAXTON_API)."
        ),
    ):
        function = option(function)
    return function


def one_of(name: str, positional: T | None, named: T | None) -> T | None:
    """What was given once, as an argument or by the option that means the same.

    Raises:
        click.UsageError: it was given twice.
    """
    if positional is not None and named is not None:
        raise click.UsageError(f"{name} is given twice, as an argument and with --agent.")
    return positional if positional is not None else named
