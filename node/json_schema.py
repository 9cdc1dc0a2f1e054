"""JSON Schemas that others have written, held against values within a bound, and without any I/O.

A schema of a few hundred bytes can take longer than the age of the universe: one that refers twice to one
that refers twice, forty times over. So what following it costs is counted, step by step, and beyond
:data:`STEPS_LIMIT` it cannot be followed. It refers to nothing outside of itself: nothing is fetched,
whatever it says. Regular expressions are tried at a cost that is known before (:mod:`node.patterns`), not by
Python, which nothing could stop; those that other programs have written are left out
(:func:`without_patterns`), since they may be none of that kind.

JSON Schema draft 2020-12, by the library of that name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from node.patterns import Pattern, PatternInvalid, compiling

STEPS_LIMIT: Final = 150_000
"""Most steps of following one schema: about a second; arguments with 5,000 objects of three values take
two thirds of it."""
UNEVALUATED: Final = "unevaluatedProperties is not followed beside patternProperties"
DEPTH_LIMIT: Final = 120
"""Most keywords inside each other that are followed; to judge a schema takes five for each level of it. The
end of the interpreter's stack could be met in a part of the library that is no Python, and panics there."""
_PATTERNS: Final = ("pattern", "patternProperties", "propertyNames")
_CLOSING: Final = ("additionalProperties", "unevaluatedProperties")
_NAMED: Final = ("properties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are schemas by name."""
_ANY_VALUE: Final = ("const", "enum", "default", "examples")
"""Keywords whose values are no schemas, whatever they look like."""
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
        if key in _NAMED and isinstance(value, dict)
        else value
        if key in _ANY_VALUE
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


def check_patterns(schema: Any) -> None:
    """Check that the regular expressions of a schema can be tried.

    Raises:
        SchemaInvalid: one is none, cannot be tried in bounded time, or all of them cost too much.
    """
    left = STEPS_LIMIT
    try:
        for text in dict.fromkeys(_patterns(schema)):
            left -= compiling(text)
            if left >= 0:
                Pattern(text)
    except PatternInvalid as error:
        raise SchemaInvalid(str(error)) from None
    if left < 0:
        raise SchemaInvalid(f"compiling its patterns takes more than {STEPS_LIMIT:,} steps")
    if _has(schema, "unevaluatedProperties") and _has(schema, "patternProperties"):
        raise SchemaInvalid(UNEVALUATED)


def _patterns(schema: Any) -> Iterator[str]:
    """The regular expressions of a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from _patterns(each)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str):
            yield value
        elif key in (*_NAMED, "patternProperties") and isinstance(value, dict):
            yield from value if key == "patternProperties" else ()
            for each in value.values():
                yield from _patterns(each)
        elif key not in _ANY_VALUE:
            yield from _patterns(value)


def _has(schema: Any, keyword: str) -> bool:
    """Whether a keyword is anywhere in a schema; a property of that name counts as well."""
    if isinstance(schema, dict):
        return keyword in schema or any(_has(each, keyword) for each in schema.values())
    return isinstance(schema, list) and any(_has(each, keyword) for each in schema)


def _followed(value: Any, schema: Any) -> list[Any]:
    # With the library, as what follows is.
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - as above

    kind, budget = _counted()
    try:
        # The registry holds the drafts themselves, and fetches nothing.
        return list(kind(schema, registry=REGISTRY, format_checker=budget(schema)).iter_errors(value))
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

        def __init__(self, schema: Any) -> None:
            super().__init__(formats=())
            self.schema = schema
            self.left, self.depth = STEPS_LIMIT, 0
            self.patterns: dict[str, Pattern] = {}

        def spend(self, steps: int) -> None:
            self.left -= steps
            if self.left < 0:
                raise Unfollowable(f"following it takes more than {STEPS_LIMIT:,} steps")

        def is_in(self, pattern: str, text: str) -> bool:
            found = self.patterns.get(pattern)
            try:
                if found is None:
                    self.spend(compiling(pattern))
                    found = self.patterns[pattern] = Pattern(pattern)
            except PatternInvalid as error:
                raise Unfollowable(str(error)) from None
            self.spend(found.steps(text))
            return found.is_in(text)

        @contextmanager
        def inside(self) -> Iterator[None]:
            if self.depth >= DEPTH_LIMIT:
                raise Unfollowable(f"it leads into itself, or deeper than {DEPTH_LIMIT} keywords")
            self.depth += 1
            try:
                yield
            finally:
                self.depth -= 1

    own = {"pattern": _pattern, "patternProperties": _pattern_properties, "uniqueItems": _unique}
    given = dict(Draft202012Validator.VALIDATORS)
    own["additionalProperties"] = functools.partial(_additional, given["additionalProperties"])
    own["unevaluatedProperties"] = functools.partial(_unevaluated, given["unevaluatedProperties"])
    judges = {name: _counting(name, judge) for name, judge in {**given, **own}.items()}
    return extend(Draft202012Validator, judges), Budget


def _counting(name: str, judge: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        budget = validator.format_checker
        budget.spend(_weight(rule) if name in _BY_VALUE else 1 + _length(rule) + _length(instance))
        with budget.inside():
            for error in judge(validator, rule, instance, schema) or ():
                budget.spend(_weight(instance))  # the error quotes it
                yield error

    return counted


def _pattern(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``pattern``, which the library leaves to Python."""
    from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped] # noqa: PLC0415

    del schema
    if isinstance(instance, str) and not validator.format_checker.is_in(rule, instance):
        yield ValidationError(f"{instance!r} does not match {rule!r}")


def _pattern_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``patternProperties``, which the library leaves to Python."""
    del schema
    if not isinstance(instance, dict):
        return
    for pattern, part in rule.items():
        for name, value in instance.items():
            if validator.format_checker.is_in(pattern, name):
                yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional(
    library: Callable[..., Any], validator: Any, rule: Any, instance: Any, schema: Any
) -> Iterator[Any]:
    """``additionalProperties``, which the library leaves to Python where there are patterns for others."""
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    patterns = schema.get("patternProperties")
    if not patterns or not isinstance(instance, dict):
        yield from library(validator, rule, instance, schema) or ()
        return
    is_in, named = validator.format_checker.is_in, schema.get("properties", {})
    further = [
        name
        for name in instance
        if name not in named and not any(is_in(pattern, name) for pattern in patterns)
    ]
    if isinstance(rule, dict):
        for name in further:
            yield from validator.descend(instance[name], rule, path=name)
    elif not rule and further:
        yield ValidationError(f"additional properties are not allowed ({further[0]!r} was unexpected)")


def _unevaluated(
    library: Callable[..., Any], validator: Any, rule: Any, instance: Any, schema: Any
) -> Iterator[Any]:
    """``unevaluatedProperties``, for which the library looks through patterns anywhere in the schema."""
    if _has(validator.format_checker.schema, "patternProperties"):
        raise Unfollowable(UNEVALUATED)
    yield from library(validator, rule, instance, schema) or ()


def _unique(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``uniqueItems``, which the library compares each with each."""
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

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
