"""``caxton wasm compose``: a component with those that it imports from inside it, by the tool ``wac``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from node.cli.build import carry_out
from node.cli.build_languages import Plan, Step, find_tool
from node.cli.deploy import read_file
from node.cli.errors import BuildFailed
from node.cli.whole_file import whole_file
from node.errors import ValidationFailed

PLUGS_LIMIT: Final = 16
"""Most components that are put into one."""
_HINT: Final = "Run `cargo install wac-cli --no-default-features`, or put wac on the path."


def compose(agent: Path, plugs: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write the component ``agent`` with its imports taken from ``plugs``, as far as these export them.

    Returns:
        What ``caxton wasm inspect`` tells of it.

    Raises:
        ToolchainMissing: wac is not installed.
        BuildFailed: wac failed, for example as no plug exports anything that is imported, or what it made is
            no agent.
        ValidationFailed: a file is no component, or the result cannot be written.
    """
    from node.agents.wasm.interface import is_component  # noqa: PLC0415 - wasmtime takes 120 ms
    from node.cli.wasm_inspect import inspect  # noqa: PLC0415

    for file in (agent, *plugs):
        if not is_component(read_file(file)):
            raise ValidationFailed(
                f"{file} is no component",
                why="it is a core module, or no WebAssembly; only components are composed",
                fix="Name binary components, as `caxton build` makes them of Python and JavaScript.",
            )
    tool = find_tool("wac", "Composed", _HINT)
    with tempfile.TemporaryDirectory(prefix="caxton-compose-") as scratch:
        product = Path(scratch) / "composed.wasm"
        given = [part for plug in plugs for part in ("--plug", str(plug.resolve()))]
        step = Step([tool, "plug", *given, str(agent.resolve()), "--output", str(product)])
        carry_out(Plan([step], product), Path(scratch))
        if not product.is_file():
            raise BuildFailed("there is no component", why="wac has written none")
        try:
            with whole_file(output, force=True) as written:
                written.write(product.read_bytes())
        except OSError as error:
            raise ValidationFailed(f"{output} cannot be written", why=error.strerror or str(error)) from error
    found = inspect(output)
    if found["problem"]:
        raise BuildFailed(
            f"{output} was composed, and is no agent",
            why=found["problem"],
            fix="Name with --with what exports what is left to be imported.",
        )
    return found
