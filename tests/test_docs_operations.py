"""The pages tell operators and clients what the code does: errors, routes, roles, options, status."""

import ast
import importlib
import json
import re
from collections.abc import Iterator

import click
import pytest

from node.agents.definition import parse_definition
from node.cli.main import INTERRUPTED, VERBS
from node.cli.members import _TOLD
from node.cluster.journal import TELLERS
from node.errors import CaxtonError
from node.http import (
    answers,
    cluster_answers,
    conversation_models,
    deploy_models,
    mailbox_models,
    message_answers,
    models,
    task_models,
    validation_models,
    webhook_models,
)
from node.http.frames import FRAMES
from node.security.permissions import ROLES, ROUTES, WS_FRAMES
from swim import hlc
from tests.docs_pages import DOCS, ROOT, column, plain, rows, tables

MODELS = (
    *(deploy_models, models, task_models, mailbox_models, conversation_models),
    *(webhook_models, validation_models),
    *(answers, cluster_answers, message_answers),
)


# errors.md
def subclasses(of: type) -> Iterator[type]:
    for found in of.__subclasses__():
        yield found
        yield from subclasses(found)


def error_facts() -> dict[str, set[tuple[int, int]]]:
    """Code -> (HTTP status, exit status) of every error class of the product."""
    for path in (ROOT / "node").rglob("*.py"):
        if "CaxtonError" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            importlib.import_module(".".join(part for part in parts if part != "__init__"))
    found: dict[str, set[tuple[int, int]]] = {}
    for error in (CaxtonError, *subclasses(CaxtonError)):
        code = getattr(error, "code", None)
        if error.__module__.startswith("node.") and isinstance(code, str):
            found.setdefault(code, set()).add((error.status, error.exit_code))  # type: ignore[attr-defined]
    return found


def test_every_error_code_is_documented_with_its_statuses() -> None:
    facts = error_facts()
    assert len(facts) > 25
    said = {
        plain(row["Code"]): {(int(row["HTTP"]), int(row["Exit"]))}
        for row in rows("errors.md", "Code", "HTTP")
    }
    assert said == facts
    for row in rows("errors.md", "Code", "HTTP"):
        assert row["When"], row["Code"]
        assert row["What to do"], row["Code"]


def test_every_exit_status_is_documented() -> None:
    used = {exit_status for statuses in error_facts().values() for _, exit_status in statuses}
    said = [int(text) for text in column("errors.md", "Exit status")]
    assert said == sorted({0, INTERRUPTED, *used})


def test_codes_inside_failures_and_of_the_maps_are_documented() -> None:
    inside: set[str] = set()
    for path in (ROOT / "node").rglob("*.py"):
        inside |= set(re.findall(r'"code": "([A-Z_]+)"', path.read_text(encoding="utf-8")))
    assert set(column("errors.md", "Code in a FAILURE")) == inside - set(error_facts())
    source = "".join((ROOT / "swim" / f"{name}.py").read_text() for name in ("publisher", "replicated"))
    codes = set(re.findall(r'StateError\(\s*"(\w+)"', source))
    assert len(codes) > 4
    assert set(column("errors.md", "Code of swim")) == codes | {hlc.ClockSkewError.code}


# api.md
def test_the_routes_are_those_of_the_permission_table() -> None:
    said = {(row["Method"], plain(row["Path"])): row["Permission"] for row in rows("api.md", "Method")}
    shown = {
        (method, path): permission.value
        for (method, path), permission in ROUTES.items()
        if not path.startswith("/config-agents")
    }
    assert said == shown
    aliased = {
        (m, p.replace("/config-agents", "/agents")) for m, p in ROUTES if p.startswith("/config-agents")
    }
    assert aliased == {(method, path) for method, path in ROUTES if path.startswith("/agents")}


def test_the_frames_of_the_websocket_are_those_of_the_permission_table() -> None:
    said = {plain(row["Frame"]): row["Permission"] for row in rows("api.md", "Frame", "Permission")}
    assert said == {frame: permission.value for frame, permission in WS_FRAMES.items()}
    named = {plain(row["Frame"]): row["Fields"] for row in rows("api.md", "Frame", "Permission")}
    found = {frame: set(re.findall(r"`(\w+)`", text)) for frame, text in named.items()}
    assert found == {name: set(model.model_fields) - {"type", "id"} for name, model in FRAMES.items()}


def test_the_roles_are_those_of_the_code() -> None:
    said = {row["Role"]: set(row["Permissions"].split(", ")) for row in rows("api.md", "Role")}
    assert said == {role: {p.value for p in permissions} for role, permissions in ROLES.items()}


def test_the_examples_of_the_api_are_valid() -> None:
    found = re.findall(r"^```json (\w+)\n(.*?)^```$", (DOCS / "api.md").read_text(), re.DOTALL | re.MULTILINE)
    assert {name for name, _ in found} >= {
        "MessageBody",
        "ReceiptBody",
        "DeployBody",
        "HealthBody",
        "ErrorBody",
    }
    for name, text in found:
        model = next(getattr(module, name) for module in MODELS if hasattr(module, name))
        body = model.model_validate(json.loads(text))
        if isinstance(body, deploy_models.DeployBody):
            assert parse_definition(body.file()).id == "greeter"


# operations.md
@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_documented(verb: str) -> None:
    headings = {h.split()[1]: table for h, table in tables(DOCS / "operations.md") if h.startswith("caxton ")}
    said = re.findall(r"`(-[\w-]+)`", " ".join(row["Option"] for row in headings[verb]))
    command: click.Command = importlib.import_module(VERBS[verb][0]).command
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    options = [p for each in commands for p in each.params if isinstance(p, click.Option)]
    assert options
    assert sorted(said) == sorted({name for p in options for name in (*p.opts, *p.secondary_opts)})


def test_no_verb_is_documented_that_does_not_exist() -> None:
    said = [h.split()[1] for h, _ in tables(DOCS / "operations.md") if h.startswith("caxton ")]
    assert said == list(VERBS)


def returned_keys(module: str, function: str) -> set[str]:
    """The keys of the dictionary that a function of ours returns, from its source."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            returned = [r.value for r in ast.walk(node) if isinstance(r, ast.Return)]
            keys = {
                k.value
                for d in returned
                if isinstance(d, ast.Dict)
                for k in d.keys
                if isinstance(k, ast.Constant)
            }
            if keys:
                return {str(key) for key in keys}
    raise AssertionError(f"{module} has no {function} that returns a dictionary")


def test_the_rooms_of_the_status_and_the_fields_of_a_member_are_documented() -> None:
    said = {
        name.removeprefix("rooms.") for name in column("operations.md", "Field of the status") if "." in name
    }
    assert said == returned_keys("node/node.py", "statistics")
    members = set(column("operations.md", "Field of a member"))
    assert members == returned_keys("node/cluster/views.py", "as_json")


def test_findings_and_events_of_the_membership_are_documented() -> None:
    assert set(column("operations.md", "Finding")) == set(_TOLD)
    levels = {plain(row["Event"]): row["Level in the log"] for row in rows("operations.md", "Event")}
    assert set(levels) == {event.__name__ for event in TELLERS}
    assert set(levels.values()) == {"info", "warning", "error"}
