"""What ``caxton wasm inspect`` finds out about a module, without running any of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import wasmtime
from wasmtime import component

from node.agents.grants import Grant
from node.agents.wasm import interface
from node.agents.wasm.component import COMPONENT_LIMIT_BYTES
from node.agents.wasm.engine import WasmEngine, binary_of, guest_module
from node.agents.wasm.manifest import read_signed
from node.cli.deploy import MANIFEST_SUFFIX, read_file
from node.errors import ArtifactUntrusted, InvalidWasm
from node.security.artifacts import ANYBODY

NAMES_LIMIT: Final = 200
"""Most exports, and imports, that are shown."""


def inspect(file: Path) -> dict[str, Any]:
    """Kind, sizes, exports, imports and signature of a module, and whether it could be an agent.

    Args:
        file: The module, binary or text; its manifest is looked for beside it.

    Raises:
        InvalidWasm: it is no WebAssembly, or more than is looked at.
        ValidationFailed: it cannot be read.
    """
    source = read_file(file)
    binary = binary_of(source)
    interface.check_size(binary, COMPONENT_LIMIT_BYTES)
    engine = WasmEngine(parallel=True, optimised=False)
    compiled = engine.compile(binary)
    if isinstance(compiled, component.Component):
        kind = "component"
        imports = sorted(compiled.type.imports(engine.engine))
        exports = sorted(compiled.type.exports(engine.engine))
        needs: list[str] = []  # it imports its whole world, and asks when it runs
    else:
        kind = "core"
        imports = [f"{each.module}.{each.name}{_signature(each.type)}" for each in compiled.imports]
        exports = [f"{each.name}{_signature(each.type)}" for each in compiled.exports]
        asked = {interface.NEEDS.get(each.name or "") for each in compiled.imports if each.module == "caxton"}
        needs = sorted(str(grant) for grant in asked if grant is not None)
    try:
        guest_module(engine, compiled, frozenset(Grant))
        problem = ""
    except InvalidWasm as error:
        problem = error.why
    return {
        "file": str(file),
        "kind": kind,
        "file_bytes": len(source),
        "binary_bytes": len(binary),
        "sha256": hashlib.sha256(source).hexdigest(),
        "exports": exports[:NAMES_LIMIT],
        "exports_total": len(exports),
        "imports": imports[:NAMES_LIMIT],
        "imports_total": len(imports),
        "grants": needs,
        "problem": problem,
        "signature": _signature_of(file, source),
    }


def _signature_of(file: Path, source: bytes) -> dict[str, Any] | None:
    """Who signed it and for what, or what is wrong with that; None for no manifest at all."""
    path = file.with_name(file.name + MANIFEST_SUFFIX)
    if not path.exists():
        return None
    try:
        signed = read_signed(read_file(path), source, ANYBODY)
    except ArtifactUntrusted as error:
        return {"valid": False, "reason": error.details["reason"], "why": error.why}
    return {"valid": True, "key": signed.key, "manifest": signed.manifest.model_dump()}


def _signature(kind: object) -> str:
    if not isinstance(kind, wasmtime.FuncType):
        return f": {type(kind).__name__.removesuffix('Type').lower()}"
    return interface.show((tuple(map(str, kind.params)), tuple(map(str, kind.results))))
