"""Findings are kept per member, in order, and bounded."""

import re
from pathlib import Path

import swim
from swim.evidence import MAX_FINDINGS, MAX_SUBJECTS, Evidence, Finding


def test_findings_come_back_in_order_with_who_found_them() -> None:
    evidence = Evidence("me")
    evidence.note("n1", 1.0, "probe_failed", "silent")
    evidence.note("n1", 2.0, "dead", by="n2")
    assert evidence.why("n1") == (
        Finding(1.0, "probe_failed", "me", "silent"),
        Finding(2.0, "dead", "n2", ""),
    )
    assert evidence.why("n2") == ()


def test_the_oldest_finding_and_the_least_recently_doubted_member_leave() -> None:
    evidence = Evidence("me")
    for number in range(MAX_FINDINGS + 5):
        evidence.note("n0", float(number), "probe_failed")
    assert [finding.at for finding in evidence.why("n0")] == [float(n) for n in range(5, MAX_FINDINGS + 5)]
    for number in range(1, MAX_SUBJECTS):
        evidence.note(f"n{number}", 0.0, "probe_failed")
    evidence.note("n0", 99.0, "refuted")
    evidence.note("one more", 0.0, "probe_failed")
    assert evidence.statistics() == {"evidence_subjects": MAX_SUBJECTS}
    assert evidence.why("n1") == ()
    assert evidence.why("n0")[-1].what == "refuted"


def test_each_finding_that_is_described_is_noted_somewhere_and_no_other() -> None:
    sources = Path(swim.__file__).parent.glob("*.py")
    noted = re.compile(r'evidence\.note\(\s*[\w.]+,\s*now,\s*"(\w+)"')
    words = {word for source in sources for word in noted.findall(source.read_text())}
    assert words == set(re.findall(r"`(\w+)`", Finding.__doc__ or ""))
