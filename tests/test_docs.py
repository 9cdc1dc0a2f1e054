"""The documentation says what the code says: every table and example of docs/ is compared with its source."""

import ast
import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import click
import pytest
from pydantic import BaseModel

import simulations.__main__
from node.agents.definition import parse_definition
from node.agents.fields import GROUPS, TOP
from node.agents.scenarios import Scenario, read_scenarios
from node.agents.scenarios.file import Expect, Input
from node.agents.settings import AgentSettings
from node.agents.template import LATER_VARIABLES, MESSAGE_VARIABLES
from node.agents.wasm import WasmPolicy, interface
from node.agents.wasm.engine import CoreModule, WasmEngine, binary_of
from node.agents.wasm.host import Moment, Way
from node.agents.wasm.instance import WasmInstance
from node.cli.main import INTERRUPTED, VERBS
from node.cli.members import _TOLD
from node.cluster.journal import TELLERS
from node.config import LlmPrice, LlmProvider, McpServer, NodeConfig, ToolServerLimits, load_config
from node.config.model import KEY_ALIASES
from node.config.swim_settings import NOT_PARAMETERS, SwimSettings
from node.environment import _LANES, SystemClock
from node.errors import CaxtonError
from node.http import (
    answers,
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
from node.http.strategies import LOAD_ALGORITHMS
from node.llm.failures import RULES as FAILURES
from node.llm.scripted import ScriptedProvider
from node.message import Message
from node.messaging.origin import TABLE
from node.messaging.protocols import OPENERS, RULES
from node.messaging.receiver import ARRIVALS, ENDINGS
from node.messaging.settings import Timing
from node.samples import sample_agents
from node.security.permissions import ROLES, ROUTES, WS_FRAMES
from node.tools.builtin_servers import builtin_servers
from node.transport import frames
from node.transport.handler import REJECT_REASONS, LinkLimits
from node.vocabulary import EXPECTS_REPLY, PERFORMATIVE_SPELLINGS, STRATEGY_NAMES, Performative
from swim import anti_entropy, codec, hlc
from swim.config import PROFILES, SwimConfig
from swim.members import PRECEDENCE
from swim.messages import Boot
from swim.suspicion import Case
from swim.units import _READERS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
Table = list[dict[str, str]]
MODELS = (
    *(deploy_models, models, task_models, mailbox_models, conversation_models),
    *(webhook_models, validation_models),
    *(answers, message_answers),
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def tables(page: Path) -> list[tuple[str, Table]]:
    """Every table of a page with the heading it stands under; outside of code blocks."""
    found: list[tuple[str, Table]] = []
    heading, head, fenced = "", [""], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if fenced or not line.startswith("|"):
            heading, head = (line.lstrip("# "), []) if line.startswith("#") and not fenced else (heading, [])
        elif not head:
            head = cells(line)
            found.append((heading, []))
        elif set(line) - set("|- "):
            row = cells(line)
            assert len(row) == len(head), f"{page.name}: {line}"
            found[-1][1].append(dict(zip(head, row, strict=True)))
    return found


def rows(page: str, *head: str) -> Table:
    """The rows of all tables of a page that begin with these columns."""
    chosen = [row for _, table in tables(DOCS / page) for row in table if tuple(row)[: len(head)] == head]
    assert chosen, f"{page} has no table of {head}"
    return chosen


def plain(text: str) -> str:
    return text.strip("`")


def column(page: str, *head: str) -> list[str]:
    """The first column of such a table, each entry once."""
    names = [plain(row[head[0]]) for row in rows(page, *head)]
    assert len(set(names)) == len(names), f"{page}: {head[0]} has an entry twice"
    return names


def number(text: str) -> float:
    return float(text.replace(",", ""))


def blocks(page: Path, info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


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


# protocol.md


def shown(value: object) -> str | float:
    """A parameter as the table of profiles shows it: a number, yes or no, or none of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    assert isinstance(value, int | float)
    return float(value)


def test_the_profiles_are_those_of_the_code() -> None:
    found = {plain(row["Parameter"]): row for row in rows("protocol.md", "Parameter", "local")}
    names = [f.name for f in fields(SwimConfig) if f.name != "label"]
    assert list(found) == names
    for profile in PROFILES:
        config = SwimConfig.profile(profile)  # type: ignore[arg-type]
        values = {name: shown(getattr(config, name)) for name in names}
        said = {name: found[name][profile] for name in names}
        assert {n: number(s) if isinstance(values[n], float) else s for n, s in said.items()} == values


def suspicion_s(config: SwimConfig, members: int, accusers: int) -> float:
    """How long a member has to answer, in a cluster of so many, when so many others accuse it at once."""
    case = Case(
        Boot(0, bytes(8)), 0, 0.0, shortest_s=config.suspicion_min_s, longest_s=config.suspicion_max_s
    )
    for accuser in range(accusers):
        case.sign(f"n{accuser}", b"")
    case.suspect(0.0, min(config.suspicion_confirmations, members - 2))
    return case.deadline()


def test_suspicions_and_transmissions_are_what_the_formulas_give() -> None:
    found = rows("protocol.md", "Profile", "Members")
    assert {row["Profile"] for row in found} == set(PROFILES)
    for row in found:
        config = SwimConfig.profile(row["Profile"])  # type: ignore[arg-type]
        members = int(number(row["Members"]))
        assert number(row["Shortest suspicion (s)"]) == pytest.approx(
            suspicion_s(config, members, members - 1), abs=0.05
        )
        assert number(row["Longest suspicion (s)"]) == pytest.approx(
            suspicion_s(config, members, 1), abs=0.05
        )
        assert number(row["Transmissions of a rumour"]) == config.retransmissions(members)


def test_the_precedence_table_is_that_of_the_code() -> None:
    found = {
        row["Held"]: {key: value for key, value in row.items() if key != "Held"}
        for row in rows("protocol.md", "Held")
    }
    assert found == {
        state.name: {statement.__name__: need.name.lower() for statement, need in needs.items()}
        for state, needs in PRECEDENCE.items()
    }


def test_messages_units_and_frames_have_the_codes_of_the_code() -> None:
    said = [
        (int(row["Code"]), plain(row["Message"]), row["Fields"], row["Carried by"])
        for row in rows("protocol.md", "Code", "Message")
    ]
    assert said == [
        (
            code,
            message.__name__,
            ", ".join(name for name, _ in schema),
            ", ".join(
                name
                for name, allowed in (("datagram", codec.IN_DATAGRAM), ("stream", codec.IN_STREAM))
                if message in allowed
            ),
        )
        for message, (code, schema) in codec._SCHEMA.items()
    ]
    units = [
        (int(row["Kind"]), len(re.split(r", (?![^{]*})", row["Layout"])))
        for row in rows("protocol.md", "Kind", "Unit")
    ]
    assert units == [(kind, length) for kind, (_, length) in _READERS.items()]
    kinds = [
        anti_entropy.PUSH, anti_entropy.HASHES, anti_entropy.SUMMARY, anti_entropy.WANT,
        anti_entropy.SLOTS_DIGEST,
    ]  # fmt: skip
    assert [int(row["Kind"]) for row in rows("protocol.md", "Kind", "Frame")] == kinds
    links = [
        (int(row["Number"]), plain(row["Frame"]), row["Fields"])
        for row in rows("protocol.md", "Number", "Frame")
    ]
    assert links == [
        (kind.__struct_config__.tag, kind.__name__, ", ".join(kind.__struct_fields__))
        for kind in frames.FRAME_NAMES
    ]


def test_the_seal_has_the_fields_in_their_order() -> None:
    sealed = DOCS.joinpath("protocol.md").read_text().partition("### Seal")[2].partition("### ")[0]
    named = re.findall(r"`(\w+)`", sealed.partition("order:")[2])
    assert tuple(named) == Message.__struct_fields__


def test_the_performatives_are_those_of_the_code() -> None:
    found = {
        row["Performative"]: row["Expects a reply"] == "yes" for row in rows("protocol.md", "Performative")
    }
    assert found == {each.value: each in EXPECTS_REPLY for each in Performative}
    also = {row["Also read"]: row["Sealed as"] for row in rows("protocol.md", "Also read")}
    assert also == {word: each.value for word, each in PERFORMATIVE_SPELLINGS.items() if word not in found}
    line = DOCS.joinpath("api.md").read_text().partition("* `performative`: ")[2].partition(";")[0]
    assert set(re.findall(r"\w+", line)) - {"also"} == set(PERFORMATIVE_SPELLINGS)


def test_the_lives_of_a_message_are_the_tables_of_the_code() -> None:
    routes = [tuple(row.values()) for row in rows("protocol.md", "State", "Event")]
    assert routes == [(a.value, b.value, c.value, d.value) for (a, b), (c, d) in TABLE.items()]
    arrivals = [tuple(row.values()) for row in rows("protocol.md", "Known as")]
    assert arrivals == [(a.value, b.value, c.value) for (a, b), c in ARRIVALS.items()]
    endings = [tuple(row.values()) for row in rows("protocol.md", "Handling")]
    assert endings == [(a.value, b.value) for a, b in ENDINGS.items()]


def test_the_interaction_protocols_are_the_table_of_the_code() -> None:
    said = [tuple(row.values()) for row in rows("protocol.md", "Protocol", "Answer to")]
    assert said == [
        (
            rule.protocol or "none",
            rule.to.value,
            rule.stage.value,
            ", ".join(answer.value for answer in rule.answers),
            rule.then.value,
        )
        for rule in RULES
    ]
    openers = {
        r["Protocol of the table"]: r["Begins with"] for r in rows("protocol.md", "Protocol of the table")
    }
    assert openers == {name: performative.value for name, performative in OPENERS.items()}


def test_the_limits_and_refusals_of_links_are_those_of_the_code() -> None:
    limits = {plain(r["Limit of links"]): number(r["Default"]) for r in rows("protocol.md", "Limit of links")}
    assert limits == {f.name: f.default for f in fields(LinkLimits)}
    assert column("protocol.md", "Reason of a refusal") == list(REJECT_REASONS)


def test_the_times_of_messaging_are_those_of_the_code() -> None:
    times = {
        plain(r["Time of messaging"]): number(r["Seconds"]) for r in rows("protocol.md", "Time of messaging")
    }
    assert times == {f.name: f.default for f in fields(Timing)}


def drop_reasons(*modules: str) -> set[str]:
    """Every reason under which these modules count something that they drop, from their source."""
    found: set[str] = set()
    for module in modules:
        tree = ast.parse((ROOT / "swim" / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in ("DecodeError", "_refuse"):
                    found |= set(texts(node.args[0]))
                if name == "count":
                    found |= {
                        t.removeprefix("dropped_") for t in texts(node.args[0]) if t.startswith("dropped_")
                    }
            elif isinstance(node, ast.Subscript):
                found |= {t.removeprefix("dropped_") for t in texts(node.slice) if t.startswith("dropped_")}
    return found - {"", "stream_"}


def texts(expression: ast.AST) -> Iterator[str]:
    if isinstance(expression, ast.JoinedStr):
        return
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_reason_for_which_a_packet_is_dropped_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "swim").glob("*.py")} - _OF_THE_MAPS - {"keyring_responder"}
    reasons = drop_reasons(*sorted(modules))
    assert len(reasons) > 25
    assert set(column("protocol.md", "Reason of a packet")) == reasons


_OF_THE_MAPS = {"state", "owner_maps", "cluster_map", "replicated"}
"""They count what they drop by units, below; and the responder counts orders, not packets."""


def test_every_reason_for_which_a_unit_is_dropped_is_listed() -> None:
    found: set[str] = set()
    for module in sorted(_OF_THE_MAPS):
        tree = ast.parse((ROOT / "swim" / f"{module}.py").read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                called = getattr(getattr(node, "func", None), "attr", "")
                returned = isinstance(node, ast.Return) and function.name in _REFUSALS
                named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason"
                if (returned or named) and node.value is not None:
                    found |= set(texts(node.value))
                elif isinstance(node, ast.Call) and called == "drop" and node.args:
                    found |= set(texts(node.args[0]))
    found.discard("")
    assert len(found) > 10
    assert set(column("protocol.md", "Reason of a unit")) == found


_REFUSALS = ("refusal", "_take", "_take_bucket", "_take_register", "_take_retirement", "_take_load")


# configuration.md and configs/node.yaml


def settings(model: type[BaseModel] = NodeConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default."""
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if info.annotation is SwimSettings:
            yield key, None  # its keys are the parameters of swim, documented with their values per profile
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from settings(info.annotation, f"{key}.")
        elif get_origin(info.annotation) is dict:
            yield key, None  # sections by names of the user's choice, whose keys have a table of their own
        else:
            yield key, info.default


DYNAMIC = {"cluster.node_name": "host name", "storage.data_dir": "state directory"}


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    found = {plain(row["Key"]): row for row in rows("configuration.md", "Key", "Default", "Unit", "Meaning")}
    assert sorted(found) == sorted(key for key, _ in settings())
    overrides: dict[str, object] = {}
    for key, default in settings():
        said = found[key]["Default"]
        if key in DYNAMIC:
            assert said == DYNAMIC[key]
        elif default is None:
            assert said == "none", key
        else:
            overrides[key] = [] if said == "`[]`" else plain(said)
        assert found[key]["Meaning"], key
    environ = {"HOME": "/nowhere", "XDG_STATE_HOME": "/nowhere/state"}
    assert load_config(environ=environ, overrides=overrides) == load_config(environ=environ)


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ("Key of a provider", LlmProvider),
        ("Key of a price", LlmPrice),
        ("Key of a tool server", McpServer),
        ("Key of what a tool server may do", ToolServerLimits),
    ],
)
def test_the_keys_of_sections_by_name_are_documented_with_their_defaults(
    head: str, model: type[BaseModel]
) -> None:
    said = {plain(row[head]): plain(row["Default"]) for row in rows("configuration.md", head, "Default")}
    assert said.pop("base_url", "of the maker") == "of the maker"
    fields_of = {info.alias or name: info for name, info in model.model_fields.items() if name != "base_url"}
    assert set(said) == set(fields_of)
    for name, info in fields_of.items():
        if info.is_required():
            assert said[name] == "needed"
        elif said[name] != "none":
            default = list(info.default) if isinstance(info.default, tuple) else info.default
            assert said[name] == str(default).lower() == json.dumps(default).strip('"')
        else:
            assert info.default is None or get_origin(info.annotation) is dict


def test_the_ways_in_which_a_provider_fails_are_those_of_the_code() -> None:
    found = rows("llm.md", "Kind of failure", "Tried again", "Others stand in", "Opens the breaker")
    said = [
        (plain(r["Kind of failure"]), *(c.startswith("yes") for c in list(r.values())[1:])) for r in found
    ]
    assert said == [(kind, rule.again, rule.elsewhere, rule.harms) for kind, rule in FAILURES.items()]


def test_the_configurations_of_the_page_on_models_load(tmp_path: Path) -> None:
    found = blocks(DOCS / "llm.md", "yaml")
    assert len(found) == 2
    keys = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY")
    for text in found:
        path = tmp_path / "node.yaml"
        path.write_text(text)
        config = load_config(path, environ=dict.fromkeys(keys, "sk-test")).llm
        assert config.provider in config.providers


def test_the_parameters_of_membership_that_can_be_set_are_those_of_the_code() -> None:
    found = column("configuration.md", "Parameter", "When to change it")
    assert set(found) < set(SwimSettings.model_fields)
    assert set(column("configuration.md", "Not a parameter")) == set(NOT_PARAMETERS)
    settable = {f.name for f in fields(SwimConfig)} - set(NOT_PARAMETERS)
    assert set(SwimSettings.model_fields) == settable


def test_the_names_of_strategies_are_those_of_the_code() -> None:
    named = {plain(r["Strategy name"]): r["Means"] for r in rows("api.md", "Strategy name", "Means")}
    assert named == {name: strategy.value for name, strategy in STRATEGY_NAMES.items()}
    algorithms = {plain(r["Load algorithm"]): r["Means"] for r in rows("api.md", "Load algorithm", "Means")}
    assert algorithms == {name: strategy.value for name, strategy in LOAD_ALGORITHMS.items()}


def test_other_names_and_variables_of_the_configuration_are_documented() -> None:
    aliases = {plain(r["Name"]): plain(r["Means"]) for r in rows("configuration.md", "Name", "Means")}
    assert aliases == dict(KEY_ALIASES)
    named = set(column("configuration.md", "Variable"))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "node").rglob("*.py"))
    used = set(re.findall(r"\b(?:CAXTON_[A-Z]+(?!_)|XDG_[A-Z_]+)\b", source)) - {"CAXTON_SECTION__KEY"}
    assert used == named


def test_the_example_configuration_loads_as_it_is_and_has_every_key() -> None:
    path = ROOT / "configs" / "node.yaml"
    environ = {"HOME": "/nowhere"}
    loaded, defaults = load_config(path, environ=environ), load_config(environ=environ)
    assert loaded == defaults
    text = path.read_text(encoding="utf-8")
    keys = [key.rpartition(".")[2] for key, _ in settings()]
    assert [key for key in keys if not re.search(rf"^[ #]*{key}:", text, re.MULTILINE)] == []


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


# agents.md


def test_every_field_of_an_agent_file_is_documented_with_its_effect() -> None:
    words = {"used": "used", "data": "carried", "later": "later"}
    table = dict(TOP) | {f"{g}.{name}": field for g, group in GROUPS.items() for name, field in group.items()}
    said = {plain(row["Field"]): row["Effect"] for row in rows("agents.md", "Field", "Effect")}
    assert said == {name: words[field.effect.value] for name, field in table.items()}
    assert column("agents.md", "Variable") == [*MESSAGE_VARIABLES, *LATER_VARIABLES]


def test_the_agent_files_of_the_page_are_valid() -> None:
    known = [name for s in builtin_servers() for name in (s.name, *(f"{s.name}/{tool}" for tool in s.tools))]
    found = [
        parse_definition(text.encode(), known_tools=known)
        for page in ("agents.md", "wasm.md")
        for text in blocks(DOCS / page, "markdown")
    ]
    assert [agent.id for agent in found] == ["data-analyzer", "contract-clerk", "pong"]
    assert [agent.warnings for agent in found] == [(), (), ()]
    assert found[1].groups["messaging"] == {"auto_respond": True, "response_format": "hybrid"}


def test_the_tools_of_the_page_are_those_there_are() -> None:
    tools = [f"{server.name}/{tool}" for server in builtin_servers() for tool in server.tools]
    assert column("agents.md", "Tool") == tools


def test_the_scenarios_of_the_page_are_valid_and_every_key_is_documented() -> None:
    text = next(block for block in blocks(DOCS / "agents.md", "yaml") if block.startswith("scenarios:"))
    assert read_scenarios(text.encode()).problems == ()
    for head, model in (("scenario", Scenario), ("`input`", Input), ("`expect`", Expect)):
        assert column("agents.md", f"Key of {'a ' if head == 'scenario' else ''}{head}") == list(
            model.model_fields
        )


def test_every_sample_agent_is_on_the_page() -> None:
    assert sorted(column("agents.md", "Sample")) == [path.stem for path in sample_agents()]


def test_the_script_of_the_page_is_valid() -> None:
    script = next(block for block in blocks(DOCS / "agents.md", "yaml") if block.startswith("strict:"))
    assert ScriptedProvider(script, SystemClock()).unused() == [1, 2, 3]


def test_the_interface_of_modules_is_that_of_the_code() -> None:
    exports = {
        plain(row["Export"]): (plain(row["Signature"]), row["Needed"]) for row in rows("wasm.md", "Export")
    }
    shown = {name: (interface.show(s), "yes") for name, s in interface.REQUIRED_EXPORTS.items()}
    shown |= {name: (interface.show(s), "no") for name, s in interface.OPTIONAL_EXPORTS.items()}
    assert exports == {"memory": ("memory", "yes"), **shown}
    imports = {
        plain(row["Import from `caxton`"]): plain(row["Signature"])
        for row in rows("wasm.md", "Import from `caxton`")
    }
    assert imports == {name: interface.show(s) for name, s in interface.IMPORTS.items()}
    granted = {
        plain(row["Import from `caxton`"]): row["Grant"].strip("`")
        for row in rows("wasm.md", "Import from `caxton`")
        if not row["Grant"].startswith("none")
    }
    assert granted == {name: grant.value for name, grant in interface.NEEDS.items()}
    [text] = [block for block in blocks(DOCS / "wasm.md", "yaml") if block.startswith("wasm:")]
    head = "name: abc\nversion: 1.0.0\ncapabilities: [a]\nruntime: wasm\nmodule: a.wat\n"
    group = parse_definition(f"---\n{head}{text}\n---\n".encode()).groups["wasm"]
    assert group == {"grants": ("clock", "state"), "memory": 8 * 1024**2, "timeout": 0.2}


def test_the_module_of_the_page_answers() -> None:
    [source] = blocks(DOCS / "wasm.md", "wat")
    engine, moment = WasmEngine(), Moment(0, b"seed")
    module = CoreModule(engine, engine.compile(binary_of(source.encode())), ())
    instance = WasmInstance(module, WasmPolicy(), moment, lambda: False)
    [(way, sent)] = instance.handle(b'{"content":null}', moment).sent
    assert way is Way.SEND
    assert json.loads(sent) == {"performative": "inform", "content": "pong"}


def test_the_limits_of_agents_are_those_of_the_settings() -> None:
    found = {
        plain(row[head]): number(row["Value"])
        for page, head in (("wasm.md", "Limit of a module"), ("agents.md", "Limit of an agent"))
        for row in rows(page, head)
    }
    assert len(found) > 5
    assert found == {name: getattr(AgentSettings(), name) for name in found}


# architecture.md, invariants.md, swim/README.md, CHANGELOG.md


def test_the_tables_on_disk_and_the_lanes_of_work_are_those_of_the_code() -> None:
    schema = (ROOT / "node" / "storage" / "migrations.py").read_text(encoding="utf-8")
    assert set(column("architecture.md", "Table")) == set(re.findall(r"CREATE TABLE (\w+)", schema))
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
