"""Which calls of tools need an operator's approval, and what exactly an approval is good for.

The host checks this for every call, after it is known that the call may be made and that its arguments fit:
:class:`ApprovalNeeded` is what it answers to a call that is marked and not approved. An approval is bound to
one tool of one server, as it was described to the model, and to the exact arguments; it opens nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from node.errors import ToolFailed
from node.tools.described import ToolInfo
from node.tools.pins import Described

EVERY: Final = "*"
"""In a list of tools: all of them."""


def canonical(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON of one spelling: keys sorted, no blanks, all but ASCII escaped."""
    return json.dumps(dict(arguments), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Binding:
    """What one approval is good for.

    Args:
        server: The tool's server.
        tool: The tool, as its server names it.
        described: SHA-256 of its name, description and input schema, hexadecimal.
        arguments: SHA-256 of its arguments in :func:`canonical` form, hexadecimal.
    """

    server: str
    tool: str
    described: str
    arguments: str

    @classmethod
    def of(cls, server: str, tool: str, info: ToolInfo, arguments: Mapping[str, Any]) -> Self:
        """The binding of a call."""
        described = Described(tool, info.description, info.input_schema).digest()
        return cls(server, tool, described, hashlib.sha256(canonical(arguments).encode()).hexdigest())

    def as_json(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`as_json` has written."""
        return cls(**json.loads(text))


class ApprovalNeeded(ToolFailed):
    """A tool is marked, and this call of it is not approved; whoever cannot wait takes it for a failure."""

    def __init__(self, name: str, binding: Binding) -> None:
        super().__init__(
            f"the tool {name!r} is called only when an operator has approved the call",
            why="the agent's security.require_approval or the setting tools.require_approval names it",
        )
        self.binding = binding


def is_named(names: Collection[str], server: str, tool: str) -> bool:
    """Whether a list of tools names one: by itself, by its server, or by a star."""
    return f"{server}/{tool}" in names or server in names or EVERY in names


def strangers(names: Collection[str], known: Collection[str]) -> list[str]:
    """Those of a list of tools that name nothing."""
    return [name for name in names if name != EVERY and name not in known]


def check_approved(
    marked: Collection[str], approved: Binding | None, call: tuple[str, str, ToolInfo, Mapping[str, Any]]
) -> None:
    """Let a call pass if it needs no approval, or has the one that it needs.

    Args:
        marked: What needs approval, by the configuration or the agent file.
        approved: What was approved.
        call: Server, tool, how it is described now, and the arguments.

    Raises:
        ApprovalNeeded: nothing was approved.
        ToolFailed: something else was: the arguments, or the tool's description, are not what they were. Or
            the arguments are such that no operator can be shown them as they are.
    """
    server, tool, info, arguments = call
    if approved is None and not is_named(marked, server, tool):
        return
    found = Binding.of(server, tool, info, arguments)
    if approved is None:
        _check_showable(info.name, arguments)
        raise ApprovalNeeded(info.name, found)
    if approved != found:
        raise ToolFailed(
            f"the tool {info.name!r} was not called",
            why="it is not what was approved: its description or its arguments have changed since",
            fix="Ask again, so that an operator can look at it as it is now.",
        )


def _check_showable(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse numbers and letters that JSON cannot tell: what is approved must be what was shown."""
    try:
        json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise ToolFailed(
            f"the arguments of the tool {name!r} cannot be shown to an operator",
            why=f"they are no JSON: {type(error).__name__}",
            fix="Write finite numbers, and whole letters.",
        ) from None
