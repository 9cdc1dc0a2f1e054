from __future__ import annotations

import re
from typing import Any

from node.cli.members import _TOLD
from swim.evidence import Finding
from tests.node.cli.conftest import FakeNode, Shell

ALPHA: dict[str, Any] = {
    "name": "alpha",
    "state": "alive",
    "address": "10.0.0.1:7946",
    "link_address": "10.0.0.1:7947",
    "incarnation": 1,
    "version": "0.1.0",
    "self": True,
    "rtt_seconds": None,
    "patience_seconds": 0,
    "last_heard_seconds": 0.0,
    "state_changed_seconds_ago": 60.0,
}
BETA = ALPHA | {
    "name": "beta",
    "state": "suspect",
    "address": "10.0.0.2:7946",
    "incarnation": 7,
    "version": "",
    "self": False,
    "rtt_seconds": 0.00234,
    "patience_seconds": 12,
    "last_heard_seconds": 4.25,
    "state_changed_seconds_ago": 2.0,
}
PARTITION = {
    "partition_state": "minority",
    "partition": {"state": "minority", "up": 2, "remembered": 5},
}


def rows(shell: Shell) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in shell.out.splitlines()]


def finding(what: str, ago_s: float, detail: str = "") -> dict[str, Any]:
    return {
        "time": "2026-01-01T00:00:00.000Z",
        "seconds_ago": ago_s,
        "what": what,
        "by": "gamma",
        "detail": detail,
    }


def test_members_are_shown_in_a_table_with_what_matters_of_each(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/cluster/members"] = 200, {"node": "alpha", **PARTITION, "members": [ALPHA, BETA]}
    assert shell("members") == 0
    first, head, alpha, beta = rows(shell)
    assert first == ["Seen from alpha: minority, 2 of 5 remembered members are up"]
    assert head[:2] == ["member", "state"]
    assert alpha == ["alpha", "alive", "10.0.0.1:7946", "0.1.0", "1", "-", "-", "(answers)"]
    assert beta == ["beta", "suspect", "10.0.0.2:7946", "-", "7", "2.3 ms", "asks for 12 s", "4.2 s ago"]
    assert shell.json("members")["members"] == [ALPHA, BETA]
    node.answers["GET", "/cluster/members"] = 200, {"node": "alpha", "members": [BETA | {"state": "dead"}]}
    assert shell("members") == 0
    assert "asks for" not in shell.out


def test_why_a_member_is_held_for_what_it_is_reads_as_a_story(node: FakeNode, shell: Shell) -> None:
    findings = [finding("probe_failed", 6.0, "no answer by 3 relays"), finding("suspected", 2.0)]
    story = {"node": "alpha", "name": "beta", "member": BETA, "doubted_by": ["gamma"], "findings": findings}
    node.answers["GET", "/cluster/members/beta/why"] = 200, story
    assert shell("members", "--why", "beta") == 0
    first, *story_lines = shell.out.splitlines()
    assert first == (
        "beta is suspect for 2 s, at 10.0.0.2:7946, last heard by alpha 4.2 s ago; it knows itself impaired "
        "and asks for 12 s of patience"
    )
    assert story_lines == [
        "Doubted by gamma",
        "2026-01-01T00:00:00.000Z       6.0 s ago  gamma could not reach it (no answer by 3 relays)",
        "2026-01-01T00:00:00.000Z       2.0 s ago  gamma holds it suspect",
    ]
    assert shell.json("members", "--why", "beta") == story


def test_a_member_without_a_story_and_one_that_is_forgotten_are_told_so(node: FakeNode, shell: Shell) -> None:
    story = {"node": "alpha", "name": "alpha", "member": ALPHA, "doubted_by": [], "findings": []}
    node.answers["GET", "/cluster/members/alpha/why"] = 200, story
    assert shell("members", "--why", "alpha") == 0
    assert shell.out.splitlines() == [
        "alpha is alive: it answers here, at 10.0.0.1:7946",
        "alpha has found nothing against it",
    ]
    dead = ALPHA | {"self": False, "state": "dead"}
    node.answers["GET", "/cluster/members/alpha/why"] = 200, story | {"member": dead}
    assert shell("members", "--why", "alpha") == 0
    assert "made room" in shell.out
    assert "found nothing" not in shell.out
    node.answers["GET", "/cluster/members/alpha/why"] = 200, story | {"member": None}
    assert shell("members", "--why", "alpha") == 0
    assert shell.out.startswith("alpha is not shown by alpha any more\n")


def test_a_member_that_is_lost_for_good_is_given_up(node: FakeNode, shell: Shell) -> None:
    partition = {"state": "majority", "up": 2, "remembered": 2}
    given_up = {"node": "alpha", "name": "beta", "partition_state": "majority", "partition": partition}
    node.answers["POST", "/cluster/members/beta/forget"] = 200, given_up
    assert shell("members", "--forget", "beta") == 0
    assert shell.out.splitlines() == [
        "beta is given up: it counts and is tried no more, unless it comes back",
        "Seen from alpha: majority, 2 of 2 remembered members are up",
    ]
    assert shell.json("members", "--forget", "beta", "--force") == given_up
    assert [body for _, _, body, _ in node.requests] == [{"force": False}, {"force": True}]
    for wrong in (("--forget", "b", "--why", "b"), ("--forget", "b", "--unreachable"), ("--force",)):
        assert shell("members", *wrong) == 2


def test_who_counts_and_is_not_shown_any_more_is_named(node: FakeNode, shell: Shell) -> None:
    found = {
        "node": "alpha",
        "members": [ALPHA, BETA | {"state": "dead"}],
        "away": ["beta", "delta", "gamma"],
    }
    node.answers["GET", "/cluster/members"] = 200, found
    assert shell("members") == 0
    assert shell.out.splitlines()[-1] == "Away for long, and still counted and tried: delta, gamma"


def test_every_finding_has_its_words_and_one_of_a_later_version_is_shown_as_it_is(
    node: FakeNode, shell: Shell
) -> None:
    assert Finding.__doc__ is not None
    assert set(re.findall(r"`(\w+)`", Finding.__doc__)) == set(_TOLD)
    story = {"node": "alpha", "name": "b", "member": None, "findings": [finding("moved", 1.0, "to Mars")]}
    node.answers["GET", "/cluster/members/b/why"] = 200, story
    assert shell("members", "--why", "b") == 0
    assert "moved (to Mars)" in shell.out


def test_who_cannot_reach_whom_is_shown_with_how_it_is_reached(node: FakeNode, shell: Shell) -> None:
    found: dict[str, Any] = {
        "node": "alpha",
        "unreachable": [
            {"node": "alpha", "cannot_reach": ["beta"], "count": 1},
            {"node": "beta", "cannot_reach": ["alpha", "gamma"], "count": 40},
        ],
        "lost_paths": [{"member": "beta", "reached_by": "relay", "since": "x", "seconds_ago": 61.0}],
    }
    node.answers["GET", "/cluster/reachability"] = 200, found
    assert shell("members", "--unreachable") == 0
    assert ["beta", "alpha, gamma and 38 more"] in rows(shell)
    assert "alpha has reached beta only through others for 61 s" in shell.out
    assert shell.json("members", "--unreachable") == found
    node.answers["GET", "/cluster/reachability"] = 200, {"node": "alpha", "unreachable": [], "lost_paths": []}
    assert shell("members", "--unreachable") == 0
    assert shell.out == "Every member reaches every other one directly.\n"


def test_two_questions_at_once_are_refused(node: FakeNode, shell: Shell) -> None:
    assert shell("members", "--why", "beta", "--unreachable") == 2
    assert "ask for one of them" in shell.err
    assert shell("members", "--why", "..") == 2
    assert node.requests == []


def test_a_member_that_nobody_knows_is_refused_with_the_nearest(node: FakeNode, shell: Shell) -> None:
    error = {
        "code": "MEMBER_NOT_FOUND",
        "message": "no member 'beto'",
        "why": "",
        "fix": "Did you mean 'beta'?",
    }
    node.answers["GET", "/cluster/members/beto/why"] = 404, {"error": error, "code": "MEMBER_NOT_FOUND"}
    assert shell("members", "--why", "beto") == 1
    assert "Did you mean 'beta'?" in shell.err


HOSTILE = "\x1b]0;owned\x07\nline\u202e"


def test_text_of_members_cannot_drive_the_terminal(node: FakeNode, shell: Shell) -> None:
    member = {key: HOSTILE if isinstance(value, str) else value for key, value in BETA.items()}
    found = dict.fromkeys(("what", "by", "detail", "time"), HOSTILE) | {"seconds_ago": 1}
    story = {"node": HOSTILE, "name": HOSTILE, "member": member, "findings": [found], "doubted_by": [HOSTILE]}
    row = {"node": HOSTILE, "cannot_reach": [HOSTILE], "count": 1}
    lost = {"member": HOSTILE, "reached_by": HOSTILE}
    node.answers["GET", "/cluster/members"] = 200, {"node": HOSTILE, "members": [member]}
    node.answers["GET", "/cluster/members/b/why"] = 200, story
    node.answers["GET", "/cluster/reachability"] = 200, {"unreachable": [row], "lost_paths": [lost]}
    for arguments in ((), ("--why", "b"), ("--unreachable",)):
        assert shell("members", *arguments) == 0
        assert "owned" in shell.out
        assert [c for c in shell.out if not c.isprintable() and c not in "\n\ufffd"] == []


def test_the_cluster_is_shown_with_how_many_of_its_members_are_up(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/cluster/status"] = 200, {"node": "alpha", **PARTITION}
    node.answers["GET", "/capabilities"] = 200, {"capabilities": []}
    assert shell("status", "--cluster") == 0
    assert shell.out.startswith("Seen from alpha: minority, 2 of 5 remembered members are up\n")
    assert shell.json("status", "--cluster")["partition"] == PARTITION["partition"]


def test_status_as_json_has_what_membership_and_maps_count(node: FakeNode, shell: Shell) -> None:
    counted = {"swim": {"packets_sent": 3}, "maps": {"owners": 2}}
    node.answers["GET", "/status"] = 200, {"node": "alpha", "membership": counted}
    node.answers["GET", "/agents"] = 200, {"agents": []}
    assert shell.json("status")["membership"] == counted
