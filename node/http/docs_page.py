"""The human page of the API: its OpenAPI description as plain HTML, with no script and no outside asset."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:#1c2530;background:#fff}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid #d5dbe2}
details{border:1px solid #d5dbe2;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f4f6f8;padding:.6rem;overflow-x:auto;border-radius:4px}
b.method{display:inline-block;width:4.5rem;font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%}td{padding:.2rem .6rem .2rem 0;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#dde3ea;background:#14181d}pre{background:#1e242b}
h2,details{border-color:#38414b}}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"
"""Content-Security-Policy of the page: it may load nothing and run nothing."""


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The page for an OpenAPI description."""
    info = openapi["info"]
    schemas = openapi.get("components", {}).get("schemas", {})
    groups: dict[str, list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[-1]
            groups.setdefault(tag, []).append(_operation(method, path, operation, schemas))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(rows)}" for tag, rows in sorted(groups.items()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info.get('description', ''))}</p>"
        f'<p>Machine-readable: <a href="openapi.json">openapi.json</a></p>{body}</body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    rows = [
        _row(p["name"], p["in"], p.get("schema", {}), bool(p.get("required"))) for p in _parameters(operation)
    ]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    model = _named(content.get("schema", {}), schemas)
    required = model.get("required", [])
    rows += [_row(k, "body", v, k in required) for k, v in model.get("properties", {}).items()]
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    answers = ", ".join(
        f"<code>{escape(code)}</code> {escape(answer.get('description', ''))}"
        for code, answer in operation.get("responses", {}).items()
    )
    parts.append(f"<p>Answers: {answers}</p>")
    return (
        f'<details><summary><b class="method">{escape(method.upper())}</b> '
        f"<code>{escape(path)}</code></summary>"
        f"{''.join(parts)}</details>"
    )


def _parameters(operation: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    found: Iterable[Mapping[str, Any]] = operation.get("parameters", [])
    return found


def _row(name: str, place: str, schema: Mapping[str, Any], required: bool) -> str:
    facts = {
        key: schema[key] for key in ("default", "minimum", "maximum", "enum", "examples") if key in schema
    }
    kinds = [schema.get("type", "")] + [str(s.get("type", "")) for s in schema.get("anyOf", [])]
    kind = " or ".join(k for k in kinds if k) or "any"
    note = f"{schema.get('description', '')} {json.dumps(facts) if facts else ''}".strip()
    flag = ", required" if required else ""
    cells = (f"<code>{escape(name)}</code>", f"{escape(place)}{flag}", escape(kind), escape(note))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _named(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    for choice in (schema, *schema.get("anyOf", [])):
        name = choice.get("$ref", "").rpartition("/")[2]
        if name in schemas:
            found: Mapping[str, Any] = schemas[name]
            return found
    return {}
