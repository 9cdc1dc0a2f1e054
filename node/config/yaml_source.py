"""YAML as data with positions: what a configuration file says, and where it says it.

Stricter than YAML, on purpose: a key given twice, an anchor or alias (which can expand without bound),
and any tag beyond plain data are problems with a line, never a surprise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_FILE_BYTES: Final = 256 * 1024
"""A configuration is a page or two; a longer file is not one."""
MAX_DEPTH: Final = 16

_PLAIN: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))

Path_ = tuple[str, ...]


class _Mark(Protocol):
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """Something in the text that is not acceptable."""

    place: Place | None
    key: Path_
    what: str


@dataclass(slots=True)
class Source:
    """A parsed file.

    Args:
        data: The mapping at its top, empty for an empty file.
        places: Path of keys -> where the key stands; list items have their number as key.
        problems: What is not acceptable.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, Place] = field(default_factory=dict)
    problems: list[SourceProblem] = field(default_factory=list)


def parse(raw: bytes) -> Source:
    """Parse the content of a file; total: problems are returned, not raised."""
    source = Source()
    if len(raw) > MAX_FILE_BYTES:
        source.problems.append(SourceProblem(None, (), f"the file is longer than {MAX_FILE_BYTES} bytes"))
        return source
    try:
        root = yaml.compose(raw.decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        source.problems.append(SourceProblem(Place(line, 1), (), "the file is not UTF-8 text"))
        return source
    except yaml.MarkedYAMLError as error:
        what = error.problem or error.context or "not YAML"
        source.problems.append(SourceProblem(_place(error.problem_mark or error.context_mark), (), what))
        return source
    except (yaml.YAMLError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "it holds control characters"
        source.problems.append(SourceProblem(None, (), what))
        return source
    if root is None or _is_null(root):
        return source
    if not isinstance(root, MappingNode):
        source.problems.append(
            SourceProblem(_place(root.start_mark), (), "the file must hold sections with keys")
        )
        return source
    data = _Reader(source).value(root, ())
    source.data = data if isinstance(data, dict) else {}
    return source


class _Loader(yaml.SafeLoader):
    """Composes nodes, without aliases."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not accepted", event.start_mark
            )
        return super().compose_node(parent, index)


class _Reader:
    """Turns nodes into values, noting places and problems."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._scalars = SafeConstructor()

    def value(self, node: Node, path: Path_) -> Any:
        if len(path) > MAX_DEPTH:
            self._problem(node, path, "nested too deeply")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            items = []
            for number, item in enumerate(node.value):
                self._note(item, (*path, str(number)))
                items.append(self.value(item, (*path, str(number))))
            return items
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._problem(key_node, path, "a key must be plain text")
                continue
            key = str(key_node.value)
            if key in found:
                self._problem(key_node, (*path, key), "the key is given twice")
                continue
            self._note(key_node, (*path, key))
            found[key] = self.value(value_node, (*path, key))
        return found

    def _scalar(self, node: Node, path: Path_) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return str(node.value)
        if node.tag not in _PLAIN:
            self._problem(node, path, f"the tag {node.tag[:80]} is not accepted")
            return None
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, OverflowError, yaml.YAMLError):
            self._problem(node, path, "the value does not fit its tag")
            return None

    def _note(self, node: Node, path: Path_) -> None:
        self._source.places[path] = _place(node.start_mark) or Place(1, 1)

    def _problem(self, node: Node, path: Path_, what: str) -> None:
        self._source.problems.append(SourceProblem(_place(node.start_mark), path, what))


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _place(mark: _Mark | None) -> Place | None:
    return None if mark is None else Place(mark.line + 1, mark.column + 1)
