"""Reads a Dockerfile and a .dockerignore, as far as this project uses them.

A subset on purpose: whatever it does not know it refuses by name, so that a step is never skipped silently.
Reference: docs.docker.com, "Dockerfile reference" and "Build context: .dockerignore files".
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

FLAGS: Final[Mapping[str, frozenset[str]]] = {
    "FROM": frozenset(),
    "ARG": frozenset(),
    "ENV": frozenset(),
    "WORKDIR": frozenset(),
    "COPY": frozenset({"chown"}),
    "RUN": frozenset(),
    "USER": frozenset(),
    "EXPOSE": frozenset(),
    "VOLUME": frozenset(),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "retries"}),
    "ENTRYPOINT": frozenset(),
    "CMD": frozenset(),
}
"""The instructions that are known -> their flags that are known."""

_BASE: Final = re.compile(r"debian:([a-z]+)-slim")
_VARIABLE: Final = re.compile(r"\\\$|\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")
_UNITS_S: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class DockerfileInvalid(Exception):
    """The Dockerfile has something that is wrong, or that this subset does not know."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Args:
        name: In upper case.
        value: What follows the name and the flags, continuation lines joined.
        flags: ``--name=value`` in front of the value.
        line: Where it begins, from 1.
    """

    name: str
    value: str
    flags: Mapping[str, str]
    line: int

    @property
    def words(self) -> list[str]:
        """The value as separate words, from its JSON form or by the rules of a shell."""
        return exec_form(self.value) or shlex.split(self.value)

    @property
    def command(self) -> list[str]:
        """The argument vector of a command: the JSON form as it is, the other one through a shell."""
        return exec_form(self.value) or ["/bin/sh", "-c", self.value]

    def refuse(self, why: str) -> DockerfileInvalid:
        """The error that says what is wrong with this instruction."""
        return DockerfileInvalid(f"line {self.line}: {self.name}: {why}")


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile.

    Raises:
        DockerfileInvalid: an instruction or a flag is unknown, or it does not begin with FROM.
    """
    found = [_instruction(line, logical) for line, logical in _logical_lines(text)]
    names = [instruction.name for instruction in found]
    first = next((name for name in names if name != "ARG"), None)
    if first != "FROM" or names.count("FROM") != 1:
        raise DockerfileInvalid("it must begin with FROM, and have one stage")
    return found


def suite(instruction: Instruction) -> str:
    """The Debian suite of a FROM instruction.

    Raises:
        DockerfileInvalid: it is no ``debian:SUITE-slim``.
    """
    match = _BASE.fullmatch(instruction.value)
    if match is None:
        raise instruction.refuse(f"{instruction.value!r} is not debian:SUITE-slim")
    return match[1]


def exec_form(value: str) -> list[str]:
    """The JSON form of a value, or an empty list where it is the other form."""
    try:
        found = json.loads(value)
    except ValueError:
        return []
    good = isinstance(found, list) and all(isinstance(item, str) for item in found)
    return found if good else []


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and ``${NAME:+other}``; an unset name is empty."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "\\$":
            return "$"
        value = variables.get(match[1] or match[2], "")
        if match[3] == "-":
            return value or match[4]
        return (match[4] if value else "") if match[3] == "+" else value

    return _VARIABLE.sub(replace, text)


def assignments(instruction: Instruction, variables: Mapping[str, str]) -> dict[str, str]:
    """What an ENV instruction sets.

    Raises:
        DockerfileInvalid: it has the old form without ``=``.
    """
    found = {}
    for word in shlex.split(instruction.value):
        name, equals, value = word.partition("=")
        if not equals:
            raise instruction.refuse("only the form NAME=VALUE is known")
        found[name] = expand(value, variables)
    return found


def health_command(instruction: Instruction) -> list[str]:
    """The argument vector of a HEALTHCHECK; empty for NONE.

    Raises:
        DockerfileInvalid: it is neither CMD nor NONE.
    """
    kind, _, command = instruction.value.partition(" ")
    if kind.upper() == "NONE":
        return []
    if kind.upper() != "CMD":
        raise instruction.refuse(f"{kind!r} is neither CMD nor NONE")
    return exec_form(command.strip()) or ["/bin/sh", "-c", command.strip()]


def duration_s(text: str) -> float:
    """``1m30s`` in seconds.

    Raises:
        DockerfileInvalid: it is no duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise DockerfileInvalid(f"{text!r} is not a duration such as 30s or 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class Ignore:
    """Which files of a build context are left out.

    Args:
        text: A .dockerignore; the last line that fits a path decides.
    """

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
        self._rules = [(not line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if line]

    def excludes(self, path: PurePosixPath) -> bool:
        """Whether ``path``, relative to the context, is left out."""
        tried = [str(path), *(str(parent) for parent in path.parents if parent != PurePosixPath())]
        excluded = False
        for excludes, pattern in self._rules:
            if any(pattern.fullmatch(name) for name in tried):
                excluded = excludes
        return excluded

    def files(self, context: Path) -> Iterator[PurePosixPath]:
        """The files and symbolic links of ``context`` that are not left out, in order."""
        for path in sorted(context.rglob("*")):
            relative = PurePosixPath(path.relative_to(context).as_posix())
            if (path.is_symlink() or not path.is_dir()) and not self.excludes(relative):
                yield relative


def copies(instruction: Instruction, names: Sequence[PurePosixPath]) -> list[tuple[PurePosixPath, str]]:
    """What a COPY instruction copies.

    Args:
        instruction: With its variables replaced.
        names: The files of the context.

    Returns:
        Pairs of a file in the context and its destination as written, which may be relative to WORKDIR.

    Raises:
        DockerfileInvalid: a source is missing, has a wildcard or leaves the context.
    """
    *sources, target = instruction.words
    if not sources:
        raise instruction.refuse("it needs a source and a destination")
    into = target.endswith("/") or target == "." or len(sources) > 1
    pairs = []
    for source in sources:
        base = PurePosixPath(source.lstrip("/"))
        if ".." in base.parts or re.search(r"[*?\[]", source):
            raise instruction.refuse(f"the source {source!r} leaves the context or has a wildcard")
        inside = [name for name in names if name.is_relative_to(base)]
        if not inside:
            raise instruction.refuse(f"the context has no {source!r}")
        for name in inside:
            below = name.relative_to(base)
            place = below if below.parts else PurePosixPath(name.name if into else "")
            pairs.append((name, str(PurePosixPath(target) / place)))
    return pairs


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations joined and comments left out, each with the number it begins at."""
    parts: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        begun = begun if parts else number
        parts.append(stripped.removesuffix("\\").rstrip())
        if not stripped.endswith("\\"):
            yield begun, " ".join(parts)
            parts = []
    if parts:
        yield begun, " ".join(parts)


def _instruction(line: int, logical: str) -> Instruction:
    name, _, rest = logical.partition(" ")
    name = name.upper()
    if name not in FLAGS:
        raise DockerfileInvalid(f"line {line}: the instruction {name} is not known here")
    flags: dict[str, str] = {}
    rest = rest.strip()
    while match := re.match(r"--([a-z-]+)(?:=(\S*))?\s+", rest):
        if match[1] not in FLAGS[name]:
            raise DockerfileInvalid(f"line {line}: {name} --{match[1]} is not known here")
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    if not rest or "<<" in rest.partition(" ")[0]:
        raise DockerfileInvalid(f"line {line}: {name} needs a value on its own line")
    return Instruction(name, rest, flags, line)


def _pattern(line: str) -> re.Pattern[str]:
    """A pattern of Go's filepath.Match, with ``**`` for any number of directories."""
    text = str(PurePosixPath(line.lstrip("/")))
    made = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]*\]|.", text):
        if token in ("**/", "**"):
            made += "(?:.*/)?" if token == "**/" else ".*"  # noqa: S105 - a token of a pattern
        elif token in ("*", "?"):
            made += "[^/]" + ("*" if token == "*" else "")  # noqa: S105
        else:
            made += token.replace("[^", "[^/") if token.startswith("[") else re.escape(token)
    return re.compile(made)
