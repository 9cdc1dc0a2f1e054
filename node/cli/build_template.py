"""New projects from the templates that come with Caxton, in ``configs/sdk``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from node.cli.build_languages import LANGUAGES, NAME
from node.errors import ValidationFailed
from node.samples import sample_directory

AGENT_FILE: Final = "agent.md"
"""The agent file of every template, and of every project."""
_TEMPLATE_NAME: Final = "greeter"


def new_project(directory: Path, name: str, language: str) -> list[Path]:
    """Write a project that can be built at once.

    Args:
        directory: Where; it must not exist, or be empty.
        name: Of the agent.
        language: One of ``LANGUAGES``.

    Returns:
        The files, relative to ``directory``.

    Raises:
        ValidationFailed: no agent can have that name, or something is there already.
    """
    if NAME.fullmatch(name) is None:
        raise ValidationFailed(
            f"{name[:80]!r} is no name for a project",
            why="a name has 3 to 64 lower-case letters, digits and hyphens, and begins with a letter",
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValidationFailed(
            f"{directory} exists already", why="nothing is overwritten", fix="Choose another directory."
        )
    root = sample_directory("sdk")
    template = root / language
    files = {
        path.relative_to(template): path
        for path in sorted(template.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"  # which an installer makes of Python's template
    }
    for shared in (AGENT_FILE, *LANGUAGES[language].shared):
        files[Path(Path(shared).name)] = root / shared
    for place, source in files.items():
        target = directory / place
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8").replace(_TEMPLATE_NAME, name)
        target.write_text(text, encoding="utf-8")
    return sorted(files)
