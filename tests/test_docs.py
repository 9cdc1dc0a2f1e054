"""The documentation says what the code says: links, constants, files, proofs of invariants, changelog."""

import ast
import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path

import apsw

import simulations.__main__
from node.environment import _LANES
from node.storage.migrations import migrate
from tests.docs_pages import DOCS, PAGES, ROOT, blocks, column, number, plain, rows, tables


# Every page
def test_links_lead_somewhere() -> None:
    checked = 0
    for page in (*PAGES, ROOT / "swim" / "README.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_file(), f"{page.name} links to {target}"
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert not anchor or anchor in anchors, f"{page.name} links to {target}"
            checked += 1
    assert checked > 10


def test_constants_have_the_values_the_pages_say() -> None:
    found = [row for page in PAGES for _, table in tables(page) for row in table if "Constant" in row]
    assert len(found) > 50
    for row in found:
        module, _, name = plain(row["Constant"]).rpartition(".")
        assert getattr(importlib.import_module(module), name) == number(row["Value"]), row["Constant"]


def test_files_that_the_pages_name_exist() -> None:
    named = [
        (page.name, name)
        for page in (*PAGES, ROOT / "swim" / "README.md")
        for name in re.findall(r"`((?:configs|docs|node|swim|simulations|tests)/[\w/.]+\w)", page.read_text())
    ]
    assert len(named) > 3
    missing = [(page, name) for page, name in named if not (ROOT / name).exists()]
    assert missing == []


# architecture.md, invariants.md, swim/README.md, CHANGELOG.md
def test_the_tables_on_disk_and_the_lanes_of_work_are_those_of_the_code() -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection)
    made = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert set(column("architecture.md", "Table")) == made
    remembered = (ROOT / "node" / "memory" / "schema.py").read_text(encoding="utf-8")
    assert set(column("memory.md", "Table of the memory")) == set(
        re.findall(r"CREATE TABLE (\w+)", remembered)
    )
    lanes = {row["Lane"]: int(row["Threads"]) for row in rows("architecture.md", "Lane")}
    assert lanes == _LANES


def test_the_commands_of_the_simulator_exist() -> None:
    named = re.findall(r"`python -m simulations (\S+?)[ `]", (DOCS / "architecture.md").read_text())
    assert sorted(named) == sorted(simulations.__main__.cli.commands)


@cache
def named_tests(path: Path) -> frozenset[str]:
    """Names of the tests in a file, as pytest spells them, without importing it."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + m.name for m in members if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(found)


def test_every_test_that_proves_an_invariant_exists() -> None:
    promises = rows("invariants.md", "Promise", "Kept in", "Proven by")
    failures = rows("invariants.md", "What goes wrong", "What happens", "Proven by")
    assert len(promises) > 50
    assert len(failures) > 30
    claims = [(next(iter(row.values())), row["Proven by"]) for row in (*promises, *failures)]
    assert len({claim for claim, _ in claims}) == len(claims)
    named = [(claim, test) for claim, proofs in claims for test in re.findall(r"`([^`]+)`", proofs)]
    assert {claim for claim, _ in named} == {claim for claim, _ in claims}
    missing = []
    for claim, test in named:
        path, _, name = test.partition("::")
        if not (ROOT / path).is_file() or name not in named_tests(ROOT / path):
            missing.append((claim, test))
    assert missing == []


def test_the_example_of_the_library_runs_and_prints_what_it_says() -> None:
    [code] = blocks(ROOT / "swim" / "README.md", "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "swim/README.md", "exec"), {"__name__": "example"})
    assert printed.getvalue().strip() == code.strip().rpartition("# ")[2]


def test_the_changelog_keeps_to_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= set(kinds)


def test_the_checks_of_this_file_bite(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n| X | Y |\n|---|---|\n| `a` | 1,000 |\n\n```\n| no | table |\n```\n\n## B\n\n| Z |\n|---|\n"
    )
    assert tables(page) == [("A", [{"X": "`a`", "Y": "1,000"}]), ("B", [])]
