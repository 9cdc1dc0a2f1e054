"""Predicates over the content of messages: which contents an agent takes.

``content.amount > 100 and content.region in ['eu', 'us']``: fields of the content, numbers, texts, true,
false and null, lists of them, comparisons, ``in``, ``and``, ``or``, ``not``. There are no calls, loops or
arithmetic, and only what is small is compared. So an expression costs a bounded time whatever it is given:
it comes from any node of the cluster, and is evaluated for every message. The grammar is that of simpleeval
with most of it taken away.

An expression that cannot be evaluated for a content (a field is missing, or of another type) does not take
it.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable
from typing import Any, Final

from simpleeval import EvalWithCompoundTypes, InvalidExpression

from node.errors import ValidationFailed

EXPRESSION_LIMIT: Final = 240
"""Longest expression, in characters: it travels in the registry."""
NODES_LIMIT: Final = 80
"""Most parts of an expression."""
DEPTH_LIMIT: Final = 12
"""Deepest nesting of an expression."""
TEXT_LIMIT: Final = 4_096
"""Longest text of a content that is compared, in characters."""
MEMBERS_LIMIT: Final = 256
"""Most members of a list of a content that are looked through."""
KEPT_LIMIT: Final = 1_024
"""Compiled expressions that are kept."""

_NAMES: Final = {"true": True, "false": False, "null": None}
_GRAMMAR: Final = (
    *(ast.Expr, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.Attribute, ast.Subscript),
    *(ast.Compare, ast.BoolOp, ast.UnaryOp),
)
_WORDS: Final = (ast.And, ast.Or, ast.Not, ast.USub, ast.Load)


class _Unfit(Exception):
    """The content is not of the kind that an expression is about."""


def _equal(one: Any, other: Any) -> bool:
    if not (_is_scalar(one) and _is_scalar(other)):
        raise _Unfit
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _differs(one: Any, other: Any) -> bool:
    return not _equal(one, other)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ordered(one: Any, other: Any) -> bool:
        if not (_is_number(one) and _is_number(other)) and not (_is_text(one) and _is_text(other)):
            raise _Unfit
        return compare(one, other)

    return ordered


def _is_in(one: Any, other: Any) -> bool:
    if _is_text(other) and _is_text(one):
        return one in other
    if isinstance(other, dict) and isinstance(one, str):
        return one in other
    if not isinstance(other, list | tuple) or len(other) > MEMBERS_LIMIT:
        raise _Unfit
    return any(_is_scalar(member) and _equal(one, member) for member in other)


def _is_not_in(one: Any, other: Any) -> bool:
    return not _is_in(one, other)


def _negative(value: Any) -> Any:
    if not _is_number(value):
        raise _Unfit
    return -value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or _is_text(value)


_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Eq: _equal,
    ast.NotEq: _differs,
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _is_in,
    ast.NotIn: _is_not_in,
    ast.Not: operator.not_,
    ast.USub: _negative,
}


class _Evaluator(EvalWithCompoundTypes):  # type: ignore[misc]  # the library has no types
    """simpleeval without what a predicate has no use for."""

    def __init__(self) -> None:
        super().__init__(operators=dict(_OPERATORS), functions={}, names=dict(_NAMES))
        known: dict[type[ast.AST], Callable[..., Any]] = self.nodes  # type: ignore[has-type]
        self.nodes = {kind: run for kind, run in known.items() if kind in _GRAMMAR}
        self.nodes[ast.Attribute] = self._field
        self.nodes[ast.Subscript] = self._member

    def _check_disallowed_items(self, item: object) -> None:
        """Nothing can be called here, and a content is JSON: it is not walked for each part of it."""

    def _field(self, node: ast.Attribute) -> Any:
        return _found(self._eval(node.value), node.attr)

    def _member(self, node: ast.Subscript) -> Any:
        return _found(self._eval(node.value), self._eval(node.slice))


def _found(value: Any, key: Any) -> Any:
    """A field of an object, or a member of a list: never an attribute of Python's."""
    if isinstance(value, dict) and isinstance(key, str) and key in value:
        return value[key]
    if (
        isinstance(value, list)
        and isinstance(key, int)
        and not isinstance(key, bool)
        and 0 <= key < len(value)
    ):
        return value[key]
    raise _Unfit


class Predicate:
    """One compiled expression.

    Args:
        text: The expression.

    Raises:
        ValidationFailed: it is none; ``details["column"]`` says where, from 1.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parsed = _parsed(text)
        self._evaluator = _Evaluator()

    def takes(self, content: Any) -> bool:
        """Whether the expression is true of a content, a JSON value."""
        evaluator = self._evaluator
        evaluator.names = {**_NAMES, "content": content}
        try:
            return evaluator.eval(self.text, previously_parsed=self._parsed) is True
        except (_Unfit, InvalidExpression, TypeError, ValueError, LookupError, ArithmeticError):
            return False
        finally:
            evaluator.names = {}


@functools.lru_cache(maxsize=KEPT_LIMIT)
def predicate(text: str) -> Predicate:
    """The compiled expression, from those that are kept if it is among them.

    Raises:
        ValidationFailed: it is none.
    """
    return Predicate(text)


def check_predicate(text: object) -> str:
    """An expression that can be compiled.

    Raises:
        ValidationFailed: it cannot, or is not text.
    """
    if not isinstance(text, str):
        raise _invalid("it is not text", 1)
    return predicate(text).text


def _parsed(text: str) -> ast.stmt:
    if not text.strip() or len(text) > EXPRESSION_LIMIT:
        raise _invalid(f"it must have 1 to {EXPRESSION_LIMIT} characters", 1)
    if not text.isprintable() or "\\" in text:
        raise _invalid("it must be printable, and without backslashes", 1)
    try:
        body = ast.parse(text.strip()).body
    except SyntaxError as error:
        raise _invalid(str(error.msg), error.offset or 1) from None
    except (ValueError, MemoryError, RecursionError):
        raise _invalid("it is nested too deeply", 1) from None
    if len(body) != 1 or not isinstance(body[0], ast.Expr):
        raise _invalid("it is not one expression", 1)
    _check_tree(body[0])
    return body[0]


def _check_tree(root: ast.Expr) -> None:
    count = 0
    left: list[tuple[ast.AST, int]] = [(root, 0)]
    while left:
        node, depth = left.pop()
        count += 1
        column = getattr(node, "col_offset", 0) + 1
        if count > NODES_LIMIT or depth > DEPTH_LIMIT:
            raise _invalid(f"it has more than {NODES_LIMIT} parts, or {DEPTH_LIMIT} levels", column)
        if not isinstance(node, (*_GRAMMAR, *_WORDS, *_OPERATORS)):
            raise _invalid(f"{type(node).__name__} is not part of such expressions", column)
        if isinstance(node, ast.Name) and node.id not in (*_NAMES, "content"):
            raise _invalid(f"{node.id!r} is not known: fields begin with content.", column)
        if isinstance(node, ast.Constant) and not _is_scalar(node.value):
            raise _invalid("it has a value that JSON does not have", column)
        left += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _invalid(why: str, column: int) -> ValidationFailed:
    return ValidationFailed(
        "the expression is not valid",
        why=f"column {column}: {why}",
        fix="For example: content.amount > 100 and content.region in ['eu', 'us'].",
        details={"field": "accepts", "column": column},
    )
