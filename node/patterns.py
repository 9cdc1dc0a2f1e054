r"""Regular expressions that authors of agents have written, tried at a cost that is known before.

Python tries one way after the other and goes back, so ``^(a+)+$`` takes longer on sixty letters than a node
lives, in a single step that nothing can stop. These are run by the engine that pydantic brings, Rust's
``regex`` crate: it goes along all ways at once and through the text a single time (https://docs.rs/regex,
"Untrusted input"; Cox, "Regular Expression Matching Can Be Simple And Fast", 2007). In return it has no
look-around and no references to groups, and refuses what is larger than 10 MB when compiled.

It may still be at every place of an expression at once, for each byte of the text, and repetitions within
repetitions make many places: ``((a{1,50}){1,50}){1,50}x`` took six minutes for 100,000 letters. So the places
are counted before, and places times bytes are what a try costs at most (:meth:`Pattern.steps`).
"""

from __future__ import annotations

import functools
import re
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

PLACES_PER_STEP: Final = 200
"""Places of an expression, times bytes of the text, that are one step: about 6 us at worst."""
COMPILING: Final = 70
"""Steps of compiling an expression without what follows."""
PLACES_PER_STEP_COMPILED: Final = 30
"""Places that are one more step of compiling it."""
CLASSES: Final = {"w": 60, "W": 60, "p": 60, "P": 60, "d": 8, "D": 8}
"""Further steps for each place that takes a class of Unicode: ``\\w`` has hundreds of ranges."""
SHOWN: Final = 60
"""Most characters of an expression that are shown."""
TOO_LARGE: Final = (
    "it is too large when compiled; where classes of Unicode as \\w repeat by hundreds, write [A-Za-z0-9_]"
)

_GROUP: Final = re.compile(r"\(\?(P?<[^>]*>|[a-zA-Z-]*[:)])")
_COUNT: Final = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_ESCAPE: Final = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|.)", re.DOTALL)


class PatternInvalid(Exception):
    """It is no regular expression, or none that can be tried in bounded time; says why.

    Args:
        text: It.
        why: What is wrong with it.
    """

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"the pattern {text[:SHOWN]!r} cannot be tried: {why}")


class Pattern:
    """A regular expression, which is searched for in texts.

    Args:
        text: As JSON Schema has it, without look-around and references to groups.

    Raises:
        PatternInvalid: it is none.
    """

    def __init__(self, text: str) -> None:
        self._places = places(text)[0]
        schema = core_schema.str_schema(pattern=text, regex_engine="rust-regex")
        try:
            self._validator = SchemaValidator(schema)
        except SchemaError as error:
            why = str(error).rpartition("error: ")[2].strip()
            raise PatternInvalid(text, TOO_LARGE if "size limit" in why else why) from None

    def steps(self, text: str) -> int:
        """What a search in ``text`` costs at most, in steps of about 6 us."""
        size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        return 1 + self._places * size // PLACES_PER_STEP

    def is_in(self, text: str) -> bool:
        """Whether ``text`` has it somewhere; never of what is no Unicode."""
        return self._validator.isinstance_python(text)


def compiling(text: str) -> int:
    """What compiling an expression costs, in the same steps.

    Raises:
        PatternInvalid: it is none that is counted.
    """
    found, weight = places(text)
    return COMPILING + weight + found // PLACES_PER_STEP_COMPILED


@functools.lru_cache(maxsize=256)
def places(text: str) -> tuple[int, int]:
    """How many places an expression has at most once its counted repetitions are written out.

    Returns:
        That, and the steps of :data:`CLASSES` for them.

    Raises:
        PatternInvalid: it has the flag ``x``, under which a comment may hide a bracket.
    """
    groups: list[tuple[int, int]] = [(1, 0)]  # what is open, each with what it has so far
    last = (0, 0)  # what a repetition would repeat; it is part of the innermost group already
    at = 0
    while at < len(text):
        char = text[at]
        if char == "(":
            found = _GROUP.match(text, at)
            flags = "" if found is None or "<" in found[1] else found[1]
            if "x" in flags:
                raise PatternInvalid(text, "the flag x is not taken")
            at = at + 1 if found is None else found.end()
            if not flags.endswith(")"):
                groups.append((1, 0))
            continue
        if char == ")" and len(groups) > 1:
            last, at = groups.pop(), at + 1
        elif char in "*+?":
            at += 1
            continue
        elif char == "{" and (counted := _COUNT.match(text, at)):
            times = max([1, *(int(number[:9]) + 1 for number in counted.groups() if number)])
            groups[-1] = _sum(groups[-1], (last[0] * (times - 1), last[1] * (times - 1)))
            last, at = (last[0] * times, last[1] * times), counted.end()
            continue
        else:
            at, weight = _atom(text, at)
            last = 1, weight
        groups[-1] = _sum(groups[-1], last)
    while len(groups) > 1:
        last = groups.pop()
        groups[-1] = _sum(groups[-1], last)
    return groups[0]


def _atom(text: str, at: int) -> tuple[int, int]:
    """Where the one that begins there ends, and its weight."""
    if text[at] == "[":
        return _bracket(text, at)
    escape = _ESCAPE.match(text, at)
    if escape is None:
        return at + 1, 0
    return escape.end(), CLASSES.get(escape[0][1], 0)


def _bracket(text: str, at: int) -> tuple[int, int]:
    """The same for a class in brackets, which may have others in it."""
    depth, weight = 0, 0
    while at < len(text):
        char = text[at]
        if char == "[":
            depth, at = depth + 1, at + 1
            at += text.startswith("^", at)
            at += text.startswith("]", at)  # right behind, it is a member
        elif char == "]":
            depth, at = depth - 1, at + 1
            if not depth:
                break
        elif escape := _ESCAPE.match(text, at):
            weight, at = weight + CLASSES.get(escape[0][1], 0), escape.end()
        else:
            at += 1
    return at, weight


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
