"""Puts data into a page: one file with nothing from outside, which its own policy lets do nothing else.

The page's style and script are named in its Content-Security-Policy by their hashes, so nothing that came
from a run could be carried out even if it got past the escaping: the data is JSON in a block that is no
script, and the script sets texts only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from simulations.scenario import ScenarioError

FILES: Final = Path(__file__).parent
SCRIPTS: Final = {
    "run": ("base.js", "time.js", "tracks.js", "matrix.js", "run.js"),
    "table": ("base.js", "table.js"),
}
"""What the script of each page is put together from, in order."""
MAX_PAGE_BYTES: Final = 5_000_000
"""A page is never larger; the bounds of what it shows keep it well below."""
MARK: Final = '<meta name="generator" content="caxton simulate report">'
"""What a page is known by: a file without it is not overwritten."""
MARK_WITHIN_BYTES: Final = 1_000
_ESCAPES: Final = {
    ord(character): f"\\u{ord(character):04x}" for character in ("<", ">", "&", "\u2028", "\u2029")
}


def render(content: dict[str, Any]) -> str:
    """The page of some content.

    Args:
        content: What it shows; ``page`` says which page, ``scenario`` and ``seed`` make its title.

    Raises:
        ScenarioError: it would be too large, which the bounds of what is shown should not let happen.
    """
    kind = content["page"]
    style = (FILES / "style.css").read_text(encoding="utf-8")
    script = "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS[kind])
    parts = {
        "title": html.escape(
            f"{content['scenario']} {content.get('seed', '')}".strip() + " · Caxton simulation"
        ),
        "policy": (
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "script": script,
        "data": json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(
            _ESCAPES
        ),
    }
    template = (FILES / f"{kind}.html").read_text(encoding="utf-8")
    # One pass: what is put in is not looked through for further marks.
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise ScenarioError(f"the page would have {size} bytes; at most {MAX_PAGE_BYTES}")
    return page


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def check_target(path: Path, *, force: bool) -> None:
    """Refuse to write where something else than a page lies.

    Args:
        path: Where a page shall go.
        force: Overwrite any file.

    Raises:
        ScenarioError: it cannot or must not be written.
    """
    if not path.parent.is_dir():
        raise ScenarioError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise ScenarioError(f"{path} is a directory; name a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ScenarioError(f"{path} is no ordinary file; name another")
    if not path.exists() or force:
        return
    with path.open("rb") as file:
        if MARK.encode() not in file.read(MARK_WITHIN_BYTES):
            raise ScenarioError(f"{path} exists and is no report; name another file, or add --force")


def save(path: Path, page: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        ScenarioError: the system does not let it be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(page)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ScenarioError(f"{path} cannot be written: {error.strerror}") from None
