"""JSON Schemas that others have written, held against values within a bound, and without any I/O.

A schema of a few hundred bytes can take longer than the age of the universe: one that refers twice to one
that refers twice, forty times over. So what following it costs is counted, step by step, and beyond
:data:`STEPS_LIMIT` it cannot be followed. It refers to nothing outside of itself: nothing is fetched,
whatever it says. A regular expression can take as long as it likes in a single step, and nothing can stop
it, so those of a schema that is not trusted are left out first (:func:`without_patterns`).

JSON Schema draft 2020-12, by the library of that name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

STEPS_LIMIT: Final = 150_000
"""Most steps of following one schema: about a second; arguments with 5,000 objects of three values take
two thirds of it."""
DEPTH_LIMIT: Final = 120
"""Most keywords inside each other that are followed; to judge a schema takes five for each level of it. The
end of the interpreter's stack could be met in a part of the library that is no Python, and panics there."""
_PATTERNS: Final = ("pattern", "patternProperties", "propertyNames")
_CLOSING: Final = ("additionalProperties", "unevaluatedProperties")
_BY_VALUE: Final = ("const", "enum")
_BROKEN: Final = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What the library raises over schemas that are valid and make no sense, as ``$ref: "http://["``."""


class Unfollowable(Exception):
    """Whether a value follows the schema cannot be said: it leads nowhere, or costs too much."""


class SchemaInvalid(Exception):
    """It is no JSON Schema; says why."""


def without_patterns(schema: Any) -> Any:
    """A schema without regular expressions, and without what would close an object that they had opened."""
    if isinstance(schema, list):
        return [without_patterns(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = (*_PATTERNS, *(_CLOSING if "patternProperties" in schema else ()))
    return {
        key: {name: without_patterns(each) for name, each in value.items()}
        if key in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, dict)
        else value
        if key in ("const", "enum", "default", "examples")
        else without_patterns(value)
        for key, value in schema.items()
        if key not in left_out
    }


def errors_of(value: Any, schema: Mapping[str, Any]) -> list[Any]:
    """How ``value`` does not follow ``schema``, as the library tells it; nothing if it does.

    Raises:
        Unfollowable: that cannot be said.
    """
    return _followed(value, dict(schema))


def check_definition(schema: Any) -> None:
    """Check that it is a schema at all.

    Raises:
        SchemaInvalid: it is none, or it costs too much to see whether it is.
    """
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # noqa: PLC0415 - 100 ms

    try:
        errors = _followed(schema, Draft202012Validator.META_SCHEMA)
    except Unfollowable as error:
        raise SchemaInvalid(str(error)) from None
    if errors:
        raise SchemaInvalid(errors[0].message)


def _followed(value: Any, schema: Any) -> list[Any]:
    # With the library, as what follows is.
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - as above

    kind, budget = _counted()
    try:
        # The registry holds the drafts themselves, and fetches nothing.
        return list(kind(schema, registry=REGISTRY, format_checker=budget()).iter_errors(value))
    except Unresolvable as error:
        raise Unfollowable(f"it refers to what is not there ({type(error).__name__})") from None
    except _BROKEN as error:
        raise Unfollowable(f"it makes no sense ({type(error).__name__})") from None


@functools.cache
def _counted() -> tuple[Any, Any]:
    """The library's validator with all of its keywords counted, and what counts.

    What counts takes the place of the checker of formats, which are not checked here: it is the one thing
    that a validator hands on to those that it makes for the parts of a schema.
    """
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - as above
    from jsonschema.validators import extend  # type: ignore[import-untyped] # noqa: PLC0415

    class Budget(FormatChecker):  # type: ignore[misc]
        """Counts down."""

        def __init__(self) -> None:
            super().__init__(formats=())
            self.left, self.depth = STEPS_LIMIT, 0

        def spend(self, steps: int) -> None:
            self.left -= steps
            if self.left < 0:
                raise Unfollowable(f"following it takes more than {STEPS_LIMIT:,} steps")

        @contextmanager
        def inside(self) -> Iterator[None]:
            if self.depth >= DEPTH_LIMIT:
                raise Unfollowable(f"it leads into itself, or deeper than {DEPTH_LIMIT} keywords")
            self.depth += 1
            try:
                yield
            finally:
                self.depth -= 1

    judges = {name: _counting(name, judge) for name, judge in Draft202012Validator.VALIDATORS.items()}
    return extend(Draft202012Validator, {**judges, "uniqueItems": _unique}), Budget


def _counting(name: str, judge: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        budget = validator.format_checker
        budget.spend(_weight(rule) if name in _BY_VALUE else 1 + _length(rule) + _length(instance))
        with budget.inside():
            for error in judge(validator, rule, instance, schema) or ():
                budget.spend(_weight(instance))  # the error quotes it
                yield error

    return counted


def _unique(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``uniqueItems``, which the library compares each with each."""
    from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped] # noqa: PLC0415

    del schema
    if not rule or not isinstance(instance, list):
        return
    validator.format_checker.spend(_weight(instance))
    if len({json.dumps(_plain(each), sort_keys=True) for each in instance}) < len(instance):
        yield ValidationError("it has items that are the same")


def _plain(value: Any) -> Any:
    """A value in which equal numbers are written alike: for JSON Schema 1.0 is 1."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _weight(value: Any) -> int:
    """How many values there are in one, itself included; of a text every hundred letters count."""
    if isinstance(value, dict):
        return 1 + sum(_weight(each) for each in value.values())
    if isinstance(value, list):
        return 1 + sum(_weight(each) for each in value)
    return 1 + len(value) // 100 if isinstance(value, str) else 1
