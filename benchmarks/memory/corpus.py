"""Real sentences from what is installed: the docstrings of every package and of Python's own library.

    .venv/bin/python -m benchmarks.memory.corpus sentences.txt                  # 100,000, one a line
    .venv/bin/python -m benchmarks.memory.corpus sentences.txt --limit 20000

Where docstrings are too few, the comments of the same files follow. The order is that of the sorted files;
each sentence comes once: the same installation gives the same file.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

LIMIT: Final = 100_000
SHORTEST: Final = 25
"""Characters."""
LONGEST: Final = 400
LEAST_WORDS: Final = 4
FILE_BYTES_LIMIT: Final = 2_000_000
_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_BLOCK: Final = re.compile(r"\n\s*\n")
_SPACE: Final = re.compile(r"\s+")
_WORD: Final = re.compile(r"[A-Za-z]{2,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; the exit status is 1 when there are fewer sentences than asked for."""
    parser = argparse.ArgumentParser(description="Real sentences from what is installed.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=LIMIT)
    options = parser.parse_args(arguments)
    found = sentences(options.limit)
    text = "".join(f"{sentence}\n" for sentence in found)
    options.file.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    average = len(text) / max(1, len(found))
    print(f"{len(found):,} sentences, {average:.0f} characters on average, SHA-256 {digest}")
    return 0 if len(found) == options.limit else 1


def sentences(limit: int) -> list[str]:
    """The first ``limit`` distinct sentences."""
    files = list(_files())
    found: dict[str, None] = {}
    for read in (_docstrings, _comments):
        for path in files:
            for text in read(path):
                for sentence in split(text):
                    found.setdefault(sentence)
                    if len(found) == limit:
                        return list(found)
    return list(found)


def split(text: str) -> Iterator[str]:
    """The sentences of a docstring: prose alone, without examples, tables and lists of names."""
    for block in _BLOCK.split(text):
        if ">>>" in block or "::" in block or "\n--" in block or "\n==" in block:
            continue
        for part in _END.split(_SPACE.sub(" ", block).strip()):
            words = _WORD.findall(part)
            letters = sum(map(len, words))
            if (
                SHORTEST <= len(part) <= LONGEST
                and len(words) >= LEAST_WORDS
                and letters > len(part) * 0.6
                and part.isprintable()
            ):
                yield part


def _files() -> Iterator[Path]:
    """Every module, packages first: their text is more various than that of the library's tests."""
    paths = sysconfig.get_paths()
    for root in dict.fromkeys((paths["purelib"], paths["platlib"], paths["stdlib"])):
        for path in sorted(Path(root).rglob("*.py")):
            inside = path.relative_to(root).parts
            if inside[0] != "site-packages" and path.stat().st_size <= FILE_BYTES_LIMIT:
                yield path


def _docstrings(path: Path) -> Iterable[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def _comments(path: Path) -> Iterable[str]:
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(path.read_bytes()).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return []
    blocks: list[list[str]] = []
    last = -2
    for token in tokens:
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                blocks.append([])
            blocks[-1].append(token.string.lstrip("#! "))
            last = token.start[0]
    return ["\n".join(block) for block in blocks]


if __name__ == "__main__":
    sys.exit(main())
