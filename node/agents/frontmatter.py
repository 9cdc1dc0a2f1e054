"""Reads the YAML front matter of an agent file and remembers where every value stands.

An agent file is text: a line ``---``, YAML, a line ``---``, then Markdown for people. The YAML is composed
to nodes, never constructed to objects, so that each key keeps its line and column and nothing but JSON
values can come out. Aliases are refused (a few hundred bytes of them expand to gigabytes), nesting is
bounded before the composer recurses, and duplicate keys are reported instead of the last one winning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

FILE_LIMIT_BYTES: Final = 256 * 1024
"""Largest agent file."""
FRONT_MATTER_LIMIT_BYTES: Final = 64 * 1024
"""Largest front matter inside it."""
DEPTH_LIMIT: Final = 16
"""Deepest nesting of the front matter."""
PROBLEM_LIMIT: Final = 100
"""Most errors, and as many warnings, reported of one file: warnings never crowd out an error."""

_FENCE: Final = "---"
_ABOUT_THE_KEY: Final = ("unknown_field", "not_supported_yet")
_JSON_SCALARS: Final = {
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:null",
}

Path = tuple[str | int, ...]
"""Where a value is: keys and list positions from the top."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth knowing, about an agent file.

    Args:
        type: A stable word: ``syntax``, ``unknown_field``, ``missing_field``, ``invalid_value`` ...
        field: Dotted path, ``tools[2]``; empty for the whole file.
        message: What is wrong and what would be right.
        line: From 1, in the file as the user sees it.
        column: From 1.
        severity: ``error`` or ``warning``.
        available_alternatives: Values that would be accepted, the nearest first.
    """

    type: str
    field: str
    message: str
    line: int = 1
    column: int = 1
    severity: str = "error"
    available_alternatives: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The problem as the public API shows it."""
        return {
            "type": self.type,
            "field": self.field,
            "message": self.message,
            "location": f"line {self.line}, column {self.column}",
            "line": self.line,
            "column": self.column,
            "severity": self.severity,
            "available_alternatives": list(self.available_alternatives),
        }


@dataclass(slots=True)
class FrontMatter:
    """The front matter as JSON values, where each stands, the Markdown body, and what is wrong so far."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    body: str = ""
    problems: list[Problem] = field(default_factory=list)
    first_line: int = 2
    """The line of the file that the YAML begins on: after a fence, or the first one."""

    def mark(self, mark: Any) -> tuple[int, int]:
        """Line and column in the file, from 1."""
        return (mark.line + self.first_line, mark.column + 1) if mark else (1, 1)

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column of the value at ``path``, or of the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def add(
        self,
        kind: str,
        path: Path,
        message: str,
        *,
        severity: str = "error",
        alternatives: tuple[str, ...] = (),
    ) -> None:
        """Note a problem at ``path``."""
        line, column = self.keys.get(path, (1, 1)) if kind in _ABOUT_THE_KEY else self.place(path)
        self.note(Problem(kind, dotted(path), message, line, column, severity, alternatives))

    def note(self, problem: Problem) -> None:
        """Keep a problem, unless there are :data:`PROBLEM_LIMIT` of its severity already."""
        if sum(known.severity == problem.severity for known in self.problems) < PROBLEM_LIMIT:
            self.problems.append(problem)


def dotted(path: Path) -> str:
    """``("tools", 2)`` as ``tools[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def read_front_matter(content: bytes) -> FrontMatter:
    """Split and decode an agent file; whatever it holds, the problems are in the result."""
    found = FrontMatter()
    if len(content) > FILE_LIMIT_BYTES:
        message = f"the file has {len(content):,} bytes; at most {FILE_LIMIT_BYTES:,} are allowed"
        found.note(Problem("too_large", "", message))
        return found
    text = _text(content, found)
    if text is None:
        return found
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        message = "the file must begin with a line '---' that opens the YAML front matter"
        found.note(Problem("missing_front_matter", "", message))
        return found
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == _FENCE), None)
    if end is None:
        message = "the front matter is never closed; end it with a line '---'"
        found.note(Problem("missing_front_matter", "", message, len(lines), 1))
        return found
    found.body = "\n".join(lines[end + 1 :]).strip()
    source = "\n".join(line.rstrip("\r") for line in lines[1:end]) + "\n"
    if len(source.encode()) > FRONT_MATTER_LIMIT_BYTES:
        message = f"the front matter is larger than {FRONT_MATTER_LIMIT_BYTES:,} bytes"
        found.note(Problem("too_large", "", message))
        return found
    _decode(source, found)
    return found


def read_yaml(content: bytes) -> FrontMatter:
    """Decode a file that is YAML as a whole, such as scenarios, by the rules of a front matter."""
    found = FrontMatter(first_line=1)
    if len(content) > FILE_LIMIT_BYTES:
        message = f"the file has {len(content):,} bytes; at most {FILE_LIMIT_BYTES:,} are allowed"
        found.note(Problem("too_large", "", message))
        return found
    text = _text(content, found)
    if text is not None:
        _decode(text, found)
    return found


def _text(content: bytes, found: FrontMatter) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        found.note(Problem("encoding", "", "the file is not UTF-8 text", line, column))
        return None


def _decode(source: str, found: FrontMatter) -> None:
    try:
        if not _is_safe(source, found):
            return
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        line, column = found.mark(mark)
        found.note(Problem("syntax", "", f"the YAML is broken: {what}", line, column))
        return
    except yaml.reader.ReaderError as error:
        before = source[: error.position]
        line, column = before.count("\n") + found.first_line, len(before) - (before.rfind("\n") + 1) + 1
        message = f"the character U+{ord(str(error.character)[:1] or ' '):04X} is not allowed"
        found.note(Problem("syntax", "", message, line, column))
        return
    if root is None:
        found.note(Problem("missing_front_matter", "", "the front matter is empty", found.first_line, 1))
    elif not isinstance(root, yaml.MappingNode):
        found.note(Problem("syntax", "", "it must be a mapping of fields", *found.mark(root.start_mark)))
    else:
        found.values = _mapping(root, (), found)


def _is_safe(source: str, found: FrontMatter) -> bool:
    """Look at the events, which are made iteratively, before anything recurses over them."""
    depth = 0
    for event in yaml.parse(source, Loader=yaml.SafeLoader):
        line, column = found.mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            message = "YAML aliases are not allowed; repeat the value"
            found.note(Problem("syntax", "", message, line, column))
            return False
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_LIMIT:
                message = f"nested deeper than {DEPTH_LIMIT} levels"
                found.note(Problem("syntax", "", message, line, column))
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return True


def _mapping(node: yaml.MappingNode, path: Path, found: FrontMatter) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            found.note(
                Problem("syntax", dotted(path), "a key must be text", *found.mark(key_node.start_mark))
            )
            continue
        key = str(key_node.value)
        here = (*path, key)
        if key in values:
            first = found.keys[here][0]
            message = f"{dotted(here)!r} is given twice; the first is on line {first}"
            found.note(Problem("duplicate_field", dotted(here), message, *found.mark(key_node.start_mark)))
            continue
        found.keys[here] = found.mark(key_node.start_mark)
        found.places[here] = (
            found.mark(key_node.start_mark)
            if isinstance(value_node, yaml.MappingNode)
            else found.mark(value_node.start_mark)
        )
        values[key] = _value(value_node, here, found)
    return values


def _value(node: yaml.Node, path: Path, found: FrontMatter) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, found)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            found.places[(*path, index)] = found.mark(item.start_mark)
            items.append(_value(item, (*path, index), found))
        return items
    return _scalar(node, path, found)


def _scalar(node: yaml.Node, path: Path, found: FrontMatter) -> Any:
    if node.tag == "tag:yaml.org,2002:timestamp":  # a date stays the text it was written as
        return str(node.value)
    if node.tag not in _JSON_SCALARS:
        message = f"the YAML tag {node.tag!r} is not allowed"
        found.note(Problem("syntax", dotted(path), message, *found.mark(node.start_mark)))
        return None
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError):
        message = f"{node.value[:80]!r} cannot be read as {node.tag.rsplit(':', 1)[-1]}"
        found.note(Problem("syntax", dotted(path), message, *found.mark(node.start_mark)))
        return None
    if isinstance(value, float) and not math.isfinite(value):
        found.note(
            Problem("invalid_value", dotted(path), "numbers must be finite", *found.mark(node.start_mark))
        )
        return None
    return value
