"""What pydantic finds wrong with a value, in the words of everything else.

Pydantic says "String should have at least 1 character" of a name that was left empty. What a model's own
validator says, and a kind of finding that is not in here, are told as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_OWN: Final = "Value error, "
"""What pydantic puts before the words of a validator."""


def said_of(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value.

    Args:
        problem: One of the list of ``ValidationError.errors()``; without its context, bounds are left out.
    """
    tell, facts = _TOLD.get(str(problem.get("type"))), problem.get("ctx") or {}
    if tell is not None:
        try:
            return tell(facts)
        except KeyError:
            pass  # its context was left out, or is another one in this version
    return str(problem.get("msg", "it is not valid")).removeprefix(_OWN)


def _number(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _count(number: int, what: str, many: str) -> str:
    return f"{number:,} {what if number == 1 else many}"


def _too_short(facts: Mapping[str, Any]) -> str:
    least = facts["min_length"]
    return "it is empty" if least == 1 else f"it must have at least {_number(least)} characters"


def _too_few(facts: Mapping[str, Any]) -> str:
    least = facts["min_length"]
    return "it is empty" if least == 1 else f"it must have at least {_number(least)} entries"


def _plainly(text: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda facts: text


def _bound(text: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda facts: f"{text} {_number(facts[name])}"


_TOLD: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "missing": _plainly("it is missing"),
    "extra_forbidden": _plainly("there is no such field"),
    "string_type": _plainly("it must be text"),
    "string_too_short": _too_short,
    "string_too_long": lambda f: f"it may have at most {_count(f['max_length'], 'character', 'characters')}",
    "string_pattern_mismatch": lambda f: f"it must have the form {f['pattern']}",
    "bytes_too_short": lambda f: f"it must have at least {_count(f['min_length'], 'byte', 'bytes')}",
    "bytes_too_long": lambda f: f"it may have at most {_count(f['max_length'], 'byte', 'bytes')}",
    "too_short": _too_few,
    "too_long": lambda f: f"it may have at most {_count(f['max_length'], 'entry', 'entries')}",
    "int_type": _plainly("it must be a whole number"),
    "int_parsing": _plainly("it must be a whole number"),
    "int_from_float": _plainly("it must be a whole number"),
    "int_parsing_size": _plainly("it must be a smaller number"),
    "float_type": _plainly("it must be a number"),
    "float_parsing": _plainly("it must be a number"),
    "finite_number": _plainly("it must be a finite number"),
    "bool_type": _plainly("it must be true or false"),
    "bool_parsing": _plainly("it must be true or false"),
    "list_type": _plainly("it must be a list"),
    "tuple_type": _plainly("it must be a list"),
    "set_type": _plainly("it must be a list"),
    "dict_type": _plainly("it must be an object"),
    "model_type": _plainly("it must be an object"),
    "model_attributes_type": _plainly("it must be an object"),
    "dataclass_type": _plainly("it must be an object"),
    "none_required": _plainly("it must be null"),
    "greater_than": _bound("it must be above", "gt"),
    "greater_than_equal": _bound("it must be at least", "ge"),
    "less_than": _bound("it must be below", "lt"),
    "less_than_equal": _bound("it must be at most", "le"),
    "multiple_of": _bound("it must be a multiple of", "multiple_of"),
    "literal_error": lambda f: f"it must be {f['expected']}",
    "enum": lambda f: f"it must be {f['expected']}",
}
"""Kind of finding -> how it is told."""
