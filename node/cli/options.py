"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Where:
    """How a user says which node is meant, and who asks.

    Args:
        api: Address of its admin API.
        node_name: Which of those that run on this machine.
        token: Bearer token.
        token_file: A file that holds it.
    """

    api: str | None = None
    node_name: str | None = None
    token: str | None = None
    token_file: Path | None = None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def node_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to find the node that a verb talks to, and to speak for whom, and how to show what it says."""
    return target_options(json_option(function))


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to find the node that a verb talks to, and to speak for whom: the verb gets ``where``."""

    @wraps(function)
    def verb(
        *given: Any,
        api: str | None,
        node_name: str | None,
        token: str | None,
        token_file: Path | None,
        **options: Any,
    ) -> Any:
        return function(*given, where=Where(api, node_name, token, token_file), **options)

    decorated: Callable[..., Any] = verb
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
        decorated = option(decorated)
    return decorated


def one_of(name: str, positional: T | None, named: T | None) -> T | None:
    """What was given once, as an argument or by the option that means the same.

    Raises:
        click.UsageError: it was given twice.
    """
    if positional is not None and named is not None:
        raise click.UsageError(f"{name} is given twice, as an argument and with --agent.")
    return positional if positional is not None else named
