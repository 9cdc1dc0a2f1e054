"""Finds agent files, and what lies beside them: modules, manifests, scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli.deploy import manifest_path, module_of, read_file
from node.errors import ValidationFailed

if TYPE_CHECKING:
    from node.agents.scenarios import AgentFiles

FILES_LIMIT: Final = 1_000
"""Most agent files, or scenarios, of one directory."""
SCENARIOS_SUFFIX: Final = ".scenarios.yaml"
_FENCE: Final = b"---"


def agent_paths(named: Sequence[Path]) -> list[Path]:
    """The agent files among files and directories: of a directory, each ``.md`` that has a front matter.

    Raises:
        ValidationFailed: there is none, or too many, or one cannot be read.
    """
    found: dict[Path, None] = {}
    for path in named:
        for file in files_below(path, ".md") if path.is_dir() else [path]:
            begins = read_file(file).removeprefix(b"\xef\xbb\xbf").startswith(_FENCE)
            if begins or not path.is_dir():
                found[file] = None
    if not found:
        raise ValidationFailed(
            "there is no agent file in " + ", ".join(map(str, named)),
            why="an agent file is Markdown that begins with a line '---'",
            fix="Name another directory, or write one with `caxton agent init`.",
        )
    return list(found)


def files_below(directory: Path, suffix: str) -> list[Path]:
    """The files of a directory whose names end so, at any depth, in order.

    Raises:
        ValidationFailed: there are too many.
    """
    found = list(islice(directory.rglob(f"*{suffix}"), FILES_LIMIT + 1))
    if len(found) > FILES_LIMIT:
        raise ValidationFailed(
            f"{directory} has too many files", why=f"at most {FILES_LIMIT} that end in {suffix} are looked at"
        )
    return sorted(found)


def read_agent(path: Path) -> AgentFiles:
    """An agent file with the module that it names and that one's manifest, as far as they are there.

    Raises:
        ValidationFailed: a file cannot be read.
    """
    from node.agents.scenarios import AgentFiles  # noqa: PLC0415 - not for --help

    content = read_file(path)
    module = module_of(content.decode(errors="replace"))
    beside = [] if module is None else [path.parent / module, manifest_path(path.parent / module)]
    return AgentFiles(path.name, content, {file.name: read_file(file) for file in beside if file.is_file()})


def scenarios_path(agent: Path) -> Path:
    """Where the scenarios of an agent are."""
    return agent.with_name(agent.name.removesuffix(".md") + SCENARIOS_SUFFIX)
