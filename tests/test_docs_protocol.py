"""docs/protocol.md says of membership what the code does: purposes, layouts, quorums, computed values."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim import strict_cbor
from swim.accusations import SUSPICION_QUORUM, VERDICT_QUORUM, Accusations
from swim.config import PROFILES, SwimConfig
from swim.identity import Ed25519Identity
from swim.keyring import MAX_OVERHEAD_BYTES, VERSIONS, Channel, Keyring
from swim.keyring_messages import Kind as SealedKind
from swim.keyring_messages import (
    Order,
    Request,
    Result,
    Sealed,
    Status,
    Verb,
    encode_request,
    encode_result,
    key_digest,
)
from swim.messages import Boot
from swim.protocol import Swim
from swim.queries import default_timeout_s
from swim.query_messages import Question, encode_question, encode_response
from swim.rtt import RttEstimator
from swim.user_events import UserEvents
from swim.user_traffic import Kind
from tests.docs_pages import number, plain, rows, suspicion_s
from tests.swim.net import settled

ROOT = Path(__file__).parent.parent
PAGE = "protocol.md"
TEXT = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
BOOT = Boot(1, bytes(8))
CONFIGS = {name: SwimConfig.profile(name) for name in PROFILES}  # type: ignore[arg-type]


def test_the_purposes_of_signatures_are_those_of_the_code() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for room in ("swim", "node") for path in (ROOT / room).rglob("*.py")
    )
    used = set(re.findall(r'\b(?:domain|_about)\("(\w+)"', source))
    (units,) = re.findall(r"domain\(kind\.__name__\.lower\(\)\) for kind in \(([\w, ]+)\)", source)
    used |= {name.lower() for name in units.split(", ")}
    assert len(used) > 10
    assert {plain(row["Purpose"]) for row in rows(PAGE, "Purpose")} == used


def test_the_envelope_is_laid_out_as_the_page_shows() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("version 1 | kind and channel 1"))
    sizes = [int(size) for size in re.findall(r" (\d+)\b", line)]
    assert sum(sizes) == MAX_OVERHEAD_BYTES
    sealed = Keyring([bytes(32)], label="x", entropy=bytes).seal(Channel.DATAGRAM, b"")
    assert len(sealed) == MAX_OVERHEAD_BYTES
    assert sealed[0] == VERSIONS[1]
    assert f"`version` is {VERSIONS[1]};" in TEXT
    assert divmod(sealed[1], 16) == (2, 1)


def test_the_kinds_of_user_frames_and_the_steps_of_a_rotation_are_those_of_the_code() -> None:
    for kinds, head in (
        (Kind, ("Kind", "User frame")),
        (Verb, ("Number", "Verb")),
        (Status, ("Number", "Status")),
    ):
        said = {plain(row[head[1]]): int(row[head[0]]) for row in rows(PAGE, *head)}
        assert said == {kind.name: kind.value for kind in kinds}


def encoded_contents() -> dict[str, bytes]:
    """One of everything that the table of contents describes."""
    identity = Ed25519Identity("n1", Ed25519PrivateKey.from_private_bytes(bytes(32)), b"")
    question = Question("q", b"", "n1", BOOT, 1, (), {}, False, True, 1000, b"")
    order = Order("n1", BOOT, 1, bytes(16), Verb.USE, key_digest(bytes(32)), bytes(64))
    sealed = Sealed(SealedKind.REQUEST, bytes(16), "n1", "n2", bytes(12), b"x")
    return {
        "event": UserEvents(identity, BOOT, lambda *_: True).fire("e", b"", 0.0)[1],
        "question": encode_question(question, identity),
        "response": encode_response(bytes(8), b""),
        "sealed": sealed.encode(),
        "request": encode_request(Request(order.encode(), BOOT.id, bytes(32))),
        "order": order.encode(),
        "result": encode_result(Result(Status.DONE, "", ("00000000",), BOOT.id)),
    }


def test_what_user_frames_hold_has_as_many_fields_as_the_page_says() -> None:
    contents = encoded_contents()
    said = {row["Content"]: plain(row["Layout"])[1:-1] for row in rows(PAGE, "Content", "Layout")}
    assert list(said) == list(contents)
    for name, layout in said.items():
        fields = strict_cbor.decode(contents[name], max_bytes=2000)
        names = re.split(r", (?![^\[]*\])", layout)
        assert len(names) == len(fields), name
        assert not names[0].isdigit() or int(names[0]) == fields[0], name


def test_signatures_needed_are_what_the_code_asks_for() -> None:
    found = rows(PAGE, "Members up", "To suspect")
    assert len(found) > 3
    for row in found:
        size = int(number(row["Members up"]))
        owner = SimpleNamespace(_owner=SimpleNamespace(size=lambda size=size: size))
        quorums = [Accusations._quorum(owner, wanted) for wanted in (SUSPICION_QUORUM, VERDICT_QUORUM)]  # type: ignore[arg-type]
        assert [int(row["To suspect"]), int(row["To declare dead"])] == quorums


def test_suspicions_shrink_with_signatures_as_the_page_says() -> None:
    found = rows(PAGE, "Signatures")
    assert len(found) > 2
    for row in found:
        for name, config in CONFIGS.items():
            assert number(row[name]) == pytest.approx(
                suspicion_s(config, 100, int(row["Signatures"])), abs=0.05
            )


def test_waits_for_an_answer_are_what_round_trips_give() -> None:
    found = rows(PAGE, "Smoothed round trip (ms)")
    assert len(found) > 3
    for row in found:
        estimator = RttEstimator()
        estimator.srtt_s = number(row["Smoothed round trip (ms)"]) / 1000
        estimator.rttvar_s = number(row["Deviation (ms)"]) / 1000
        for name, config in CONFIGS.items():
            wait_s = estimator.timeout_s(config.probe_timeout_min_s, config.probe_timeout_s)
            assert number(row[name]) == pytest.approx(1000 * wait_s)


def test_the_bounds_of_a_detection_follow_from_the_parameters() -> None:
    found = rows(PAGE, "Profile", "A probe has failed after (s)")
    assert [row["Profile"] for row in found] == list(CONFIGS)
    for row in found:
        config = CONFIGS[row["Profile"]]
        failed_s = config.probe_timeout_s * config.probe_verdict_mult
        noticed_s = 2 * config.probe_interval_s + failed_s
        assert [number(cell) for cell in list(row.values())[1:]] == pytest.approx(
            [failed_s, noticed_s, noticed_s + config.suspicion_min_s]
        )


def test_a_stall_asks_for_the_patience_that_the_page_says() -> None:
    found = rows(PAGE, "Stall under `lan` (s)")
    assert len(found) > 3
    for row in found:
        net = settled(2, profile="lan")
        swim = net.hosts["n1"].swim
        swim.loop_lagged(number(row["Stall under `lan` (s)"]), net.now)
        assert swim.own.patience_s == number(row["Patience asked (s)"])


def test_the_chance_of_an_attempt_to_reconnect_is_what_the_page_says() -> None:
    found = rows(PAGE, "Members up", "Members lost")
    assert len(found) > 3
    for row in found:
        up, lost = int(row["Members up"]), int(row["Members lost"])
        chance = number(row["Chance that one member tries"])
        assert tries(up, lost, chance * 0.99)
        assert chance == 1 or not tries(up, lost, chance * 1.01)
        assert number(row["Attempts per interval of its side"]) == pytest.approx(up * chance, rel=0.01)


def tries(up: int, lost: int, drawn: float) -> bool:
    """Say whether a member among so many tries one of so many lost ones when chance gives this number."""
    begun: list[object] = []
    addresses = [(f"n{index}", ("host", 1)) for index in range(lost)]
    swim = SimpleNamespace(
        _table=SimpleNamespace(lost=lambda: addresses),
        _leave_until=None,
        _rng=SimpleNamespace(random=lambda: drawn, choice=lambda options: options[0]),
        _streams=SimpleNamespace(begin=lambda address, now: begun.append(address)),
        _counts={"reconnect_attempts": 0},
        size=lambda: up,
        _try_version=lambda attempt: None,
    )
    Swim._reconnect(swim, 0.0)  # type: ignore[arg-type]
    return bool(begun)


def test_queries_wait_as_long_as_the_page_says() -> None:
    found = rows(PAGE, "Members asked")
    assert len(found) > 3
    for row in found:
        for name, config in CONFIGS.items():
            wait_s = default_timeout_s(int(number(row["Members asked"])), config.gossip_interval_s)
            assert number(row[name]) == pytest.approx(wait_s)
