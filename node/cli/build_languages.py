"""How modules are built in each language: what a project looks like, and which commands make its module.

Commands are lists of arguments and never see a shell. Nothing is installed: a tool that is missing is an
error that says how to get it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import node.agents.wasm
from node.cli.errors import ToolchainMissing
from node.errors import ValidationFailed

WIT: Final = Path(node.agents.wasm.__file__).parent / "wit"
"""The world that components are built for."""
_RUST_TARGET: Final = "wasm32-unknown-unknown"
_ZIG_TARGET: Final = "wasm32-freestanding"
_QUERY_TIMEOUT_S: Final = 60.0
_BUNDLE: Final = ("--bundle", "--format=esm", "--external:caxton:*", "--log-level=warning")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it finds in its environment beside ours."""

    arguments: list[str]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run in the project's directory, and where the module is then."""

    steps: list[Step]
    product: Path


Planner = Callable[[Path, Path], Plan]
"""Takes the project, and a directory for what need not be kept.

Raises ToolchainMissing, or ValidationFailed for a project that is not what it should be.
"""


@dataclass(frozen=True, slots=True)
class Language:
    """One language.

    Args:
        mark: The file by which its projects are known.
        plan: Says how to build one.
        shared: Files of its template that are another language's, by path under ``configs/sdk``.
        engines: How to build one for each engine that it can bring along, by the names of `--engine`.
    """

    mark: str
    plan: Planner
    shared: tuple[str, ...] = ()
    engines: Mapping[str, Planner] = field(default_factory=dict)

    def planner(self, engine: str | None) -> Planner:
        """How to build one for an engine; None for the usual one.

        Raises:
            ValidationFailed: the language brings no such engine along.
        """
        if engine is None:
            return self.plan
        if engine not in self.engines:
            raise ValidationFailed(
                f"there is no engine {engine!r} for this language",
                why="only JavaScript and TypeScript have a choice of engines",
                fix="Leave --engine out.",
            )
        return self.engines[engine]


def find_tool(name: str, language: str, hint: str, project: Path | None = None) -> str:
    """Where a tool is: in the project's ``node_modules``, on the path, or beside our own interpreter.

    Raises:
        ToolchainMissing: nowhere.
    """
    places = [] if project is None else [str(project / "node_modules" / ".bin")]
    places += [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise _missing(name, language, hint)
    return found


def _missing(name: str, language: str, hint: str) -> ToolchainMissing:
    return ToolchainMissing(
        f"{language} modules cannot be built here",
        why=f"{name} is not installed",
        fix=hint,
        details={"language": language, "tool": name},
    )


def _rust(project: Path, _scratch: Path) -> Plan:
    hint = "Install Rust (https://rustup.rs)."
    cargo, rustc = find_tool("cargo", "Rust", hint), find_tool("rustc", "Rust", hint)
    asked = [rustc, "--print", "sysroot"]
    said = subprocess.run(  # noqa: S603 - a fixed question to the compiler that was found
        asked, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False, cwd=project
    ).stdout.strip()
    if not (Path(said) / "lib" / "rustlib" / _RUST_TARGET).is_dir():
        raise _missing(
            f"Rust's target {_RUST_TARGET}",
            "Rust",
            f"Run `rustup target add {_RUST_TARGET}`, or install libstd-rust-dev-wasm32 with Debian's Rust.",
        )
    directory = Path(os.environ.get("CARGO_TARGET_DIR") or project / "target")
    arguments = [cargo, "build", "--release", "--target", _RUST_TARGET, "--target-dir", str(directory)]
    product = directory / _RUST_TARGET / "release" / f"{_crate(project)}.wasm"
    return Plan([Step(arguments)], product)


def _crate(project: Path) -> str:
    """The name under which Cargo writes a library."""
    path = project / "Cargo.toml"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        return str(said.get("lib", {}).get("name") or said["package"]["name"]).replace("-", "_")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValidationFailed(
            f"{path} names no package", why="it is no manifest of Cargo with [package] and its name"
        ) from None


def _go(_project: Path, scratch: Path) -> Plan:
    go = find_tool("go", "Go", "Install Go 1.24 or later (https://go.dev/dl).")
    product = scratch / "agent.wasm"
    arguments = [go, "build", "-buildmode=c-shared", "-trimpath", "-o", str(product), "."]
    return Plan([Step(arguments, {"GOOS": "wasip1", "GOARCH": "wasm"})], product)


def _zig_command(language: str) -> list[str]:
    """Zig from the path, or the one that comes from PyPI."""
    if shutil.which("zig") is None and importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    return [find_tool("zig", language, "Run `pip install ziglang`, or install Zig (https://ziglang.org).")]


def _c(project: Path, scratch: Path) -> Plan:
    product = scratch / "agent.wasm"
    # -g keeps the names of functions, for backtraces; the rest of it is taken out again
    options = ["-target", _ZIG_TARGET, "-Os", "-g", "-nostdlib", "-Wall", "-Wl,--no-entry"]
    sources = [path.name for path in sorted(project.glob("*.c"))]
    return Plan([Step([*_zig_command("C"), "cc", *options, "-o", str(product), *sources])], product)


def _zig(_project: Path, scratch: Path) -> Plan:
    product = scratch / "agent.wasm"
    options = ["-target", _ZIG_TARGET, "-O", "ReleaseSmall", "-fno-entry", "-rdynamic", "-fno-strip"]
    where = ["--cache-dir", str(scratch / "zig-cache"), f"-femit-bin={product}"]
    return Plan([Step([*_zig_command("Zig"), "build-exe", "agent.zig", *options, *where])], product)


def _python(_project: Path, scratch: Path) -> Plan:
    tool = find_tool("componentize-py", "Python", "Run `pip install componentize-py`.")
    product = scratch / "agent.wasm"
    arguments = [tool, "-d", str(WIT), "-w", "agent", "componentize", "app", "-o", str(product)]
    return Plan([Step(arguments)], product)


def _javascript(project: Path, scratch: Path) -> Plan:
    packages = "componentize-qjs"
    try:
        esbuild: str | None = find_tool("esbuild", "JavaScript", "", project)
    except ToolchainMissing:
        esbuild = None
    return _script(project, scratch, "JavaScript", "app.js", esbuild, packages)


def _typescript(project: Path, scratch: Path) -> Plan:
    packages = "componentize-qjs esbuild"
    hint = f"Run `npm install {packages}` in the project, or globally."
    esbuild = find_tool("esbuild", "TypeScript", hint, project)
    return _script(project, scratch, "TypeScript", "app.ts", esbuild, packages)


def _script(
    project: Path, scratch: Path, language: str, source: str, esbuild: str | None, packages: str
) -> Plan:
    hint = f"Run `npm install {packages}` in the project, or globally."
    tool = find_tool("componentize-qjs", language, hint, project)
    product = scratch / "agent.wasm"
    steps: list[Step] = []
    root, entry = project, source
    if esbuild is not None:
        root, entry = scratch, "bundle.js"
        steps.append(Step([esbuild, source, *_BUNDLE, f"--outfile={scratch / entry}"]))
    arguments = [tool, "--sync", "--wit", str(WIT), "--world", "agent", "--module-root", str(root)]
    steps.append(Step([*arguments, "--js", str(root / entry), "--output", str(product)]))
    return Plan(steps, product)


def _javascript_spidermonkey(project: Path, scratch: Path) -> Plan:
    return _spidermonkey(project, scratch, "JavaScript", "app.js")


def _typescript_spidermonkey(project: Path, scratch: Path) -> Plan:
    return _spidermonkey(project, scratch, "TypeScript", "app.ts")


def _spidermonkey(project: Path, scratch: Path, language: str, source: str) -> Plan:
    hint = "Run `npm install @bytecodealliance/componentize-js esbuild` in the project, or globally."
    esbuild = find_tool("esbuild", language, hint, project)
    tool = find_tool("componentize-js", language, hint, project)
    bundle, product = scratch / "bundle.js", scratch / "agent.wasm"
    arguments = [tool, str(bundle), "--wit", str(WIT), "--world-name", "agent", "--out", str(product)]
    # what is switched off is not imported: the engine asks for no clock and no chance past the grants
    arguments += ["--disable", "stdio", "random", "clocks", "http", "fetch-event"]
    return Plan([Step([esbuild, source, *_BUNDLE, f"--outfile={bundle}"]), Step(arguments)], product)


LANGUAGES: Final[dict[str, Language]] = {
    "rust": Language("Cargo.toml", _rust),
    "go": Language("go.mod", _go),
    "c": Language("agent.c", _c),
    "zig": Language("agent.zig", _zig),
    "python": Language("app.py", _python),
    "javascript": Language(
        "app.js",
        _javascript,
        engines={"quickjs": _javascript, "spidermonkey": _javascript_spidermonkey},
    ),
    "typescript": Language(
        "app.ts",
        _typescript,
        shared=("javascript/caxton.js",),
        engines={"quickjs": _typescript, "spidermonkey": _typescript_spidermonkey},
    ),
}
"""The languages, by the names that `--language` takes."""
ENGINES: Final = tuple(LANGUAGES["javascript"].engines)
"""What `--engine` takes."""


def guess(project: Path) -> str:
    """The language of a project, by its files.

    Raises:
        ValidationFailed: none, or more than one.
    """
    found = [name for name, language in LANGUAGES.items() if (project / language.mark).is_file()]
    if len(found) == 1:
        return found[0]
    marks = ", ".join(language.mark for language in LANGUAGES.values())
    raise ValidationFailed(
        f"the language of {project} cannot be told",
        why=f"it could be {' or '.join(found)}" if found else f"it has none of {marks}",
        fix="Name one with --language, or make a project with `caxton build --new NAME --language rust`.",
    )


NAME: Final = re.compile(r"[a-z][a-z0-9-]{2,63}")
"""Names of new projects: an agent's, a crate's and a Go module's at once."""
