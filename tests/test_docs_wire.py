"""The pages say of wire and messages what the code says: codes, seals, lives, limits, reasons."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from node.message import Message
from node.messaging.origin import TABLE
from node.messaging.protocols import OPENERS, RULES
from node.messaging.receiver import ARRIVALS, ENDINGS
from node.messaging.settings import Timing
from node.transport import frames
from node.transport.handler import REJECT_REASONS, LinkLimits
from node.vocabulary import EXPECTS_REPLY, PERFORMATIVE_SPELLINGS, Performative
from swim import anti_entropy, codec
from swim.config import PROFILES, SwimConfig
from swim.members import PRECEDENCE
from swim.units import _READERS
from tests.docs_pages import DOCS, ROOT, column, number, plain, rows, shown, suspicion_s


def test_the_profiles_are_those_of_the_code() -> None:
    found = {plain(row["Parameter"]): row for row in rows("protocol.md", "Parameter", "local")}
    names = [f.name for f in fields(SwimConfig) if f.name != "label"]
    assert list(found) == names
    for profile in PROFILES:
        config = SwimConfig.profile(profile)  # type: ignore[arg-type]
        values = {name: shown(getattr(config, name)) for name in names}
        said = {name: found[name][profile] for name in names}
        assert {n: number(s) if isinstance(values[n], float) else s for n, s in said.items()} == values


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
