from swim.comparisons import (
    MAX_FOREIGN_ROOTS,
    MAX_PEERS,
    MAX_REPLIES_PER_S,
    PATIENCE_S,
    RECENT_S,
    SETTLE_S,
    YIELD_S,
    Comparisons,
    PeerStep,
)

LOW, OWN, HIGH = b"\x00" * 8, b"\x80" * 8, b"\xff" * 8


def opened(comparisons: Comparisons, root: bytes, *, peer: str = "b", own: bytes = OWN) -> list[float]:
    """Let a peer show a root every quarter of a second for 20 s; return when comparisons were opened."""
    times = [step / 4 for step in range(80)]
    return [now for now in times if comparisons.differs(peer, own, root, now)]


def test_a_difference_is_compared_when_it_has_settled_and_then_less_and_less_often() -> None:
    assert opened(Comparisons(), HIGH) == [SETTLE_S + wait for wait in (0, 1, 3, 7, 15)]


def test_the_higher_root_leaves_the_opening_to_the_lower_one_for_a_while() -> None:
    assert opened(Comparisons(), LOW)[0] == SETTLE_S + YIELD_S


def test_a_foreign_root_that_others_have_shown_before_has_settled_already() -> None:
    comparisons = Comparisons()
    assert not comparisons.differs("b", OWN, HIGH, 0.0)
    assert comparisons.differs("c", OWN, HIGH, SETTLE_S)


def test_a_change_of_the_own_state_starts_the_settling_again() -> None:
    comparisons = Comparisons()
    assert not comparisons.differs("b", OWN, HIGH, 0.0)
    assert not comparisons.differs("b", LOW, HIGH, SETTLE_S)
    assert not comparisons.differs("b", LOW, HIGH, 2 * SETTLE_S - 0.01)
    assert comparisons.differs("b", LOW, HIGH, 2 * SETTLE_S)


def test_the_own_change_is_noticed_also_while_peers_agree() -> None:
    comparisons = Comparisons()
    comparisons.differs("b", LOW, HIGH, 0.0)
    comparisons.agrees("c", OWN, 10.0)
    assert comparisons.differs("b", OWN, HIGH, 10.0 + SETTLE_S)


def test_under_constant_change_a_lasting_difference_with_one_peer_is_compared() -> None:
    comparisons = Comparisons()
    found = []
    for step in range(80):
        now = step / 4
        comparisons.agrees("c", bytes([step]) * 8, now)
        if comparisons.differs("b", bytes([step]) * 8, bytes([255 - step]) * 8, now):
            found.append(now)
    assert found[0] == PATIENCE_S
    assert len(found) == 4


def test_under_constant_change_with_ever_new_peers_somebody_is_asked_once_a_second() -> None:
    comparisons = Comparisons()
    found = [
        step / 4
        for step in range(80)
        if comparisons.differs(f"peer-{step}", bytes([step]) * 8, bytes([255 - step]) * 8, step / 4)
    ]
    assert found == [PATIENCE_S + second for second in range(15)]


def test_news_from_a_peer_makes_comparing_worth_while_again() -> None:
    comparisons = Comparisons()
    for now in (1.0, 2.0, 4.0, 8.0):
        comparisons.differs("b", OWN, HIGH, now - 1.0)
        assert comparisons.differs("b", OWN, HIGH, now)
    comparisons.brought_news("b")
    comparisons.brought_news("stranger")
    assert comparisons.differs("b", OWN, HIGH, 16.0)
    assert not comparisons.differs("b", OWN, HIGH, 16.9)
    assert comparisons.differs("b", OWN, HIGH, 17.0)


def test_a_peer_gets_only_so_many_replies_a_second() -> None:
    comparisons = Comparisons()
    frames = [b"frame"] * 40
    assert len(comparisons.within_budget("b", frames, 0.0)) == 40
    assert len(comparisons.within_budget("b", frames, 0.9)) == MAX_REPLIES_PER_S - 40
    assert len(comparisons.within_budget("c", frames, 0.9)) == 40
    assert len(comparisons.within_budget("b", frames, 1.0)) == 40
    assert comparisons.within_budget("d", [], 1.0) == []


def test_divergence_says_who_is_in_step_and_since_when_not() -> None:
    comparisons = Comparisons()
    comparisons.agrees("a", OWN, 0.0)
    comparisons.differs("b", OWN, LOW, 1.0)
    comparisons.differs("b", OWN, HIGH, 5.0)
    comparisons.differs("c", OWN, HIGH, 4.0)
    comparisons.agrees("c", OWN, 6.5)
    divergence = comparisons.divergence(OWN, 7.0)
    assert divergence.root == OWN
    assert (divergence.in_step, divergence.differing) == (2, 1)
    assert (divergence.longest_s, divergence.longest_ever_s) == (6.0, 2.5)
    assert divergence.peers == (PeerStep("a", 0.0, None), PeerStep("b", 5.0, 1.0), PeerStep("c", 6.5, None))
    statistics = comparisons.statistics()
    assert statistics["peers_in_step"] == 2
    assert statistics["divergence_ms"] == 5500  # as of the last root that was heard
    assert statistics["longest_divergence_ms"] == 2500


def test_a_peer_that_was_not_heard_for_a_minute_does_not_count_in_the_totals() -> None:
    comparisons = Comparisons()
    comparisons.differs("gone", OWN, LOW, 0.0)
    comparisons.agrees("here", OWN, RECENT_S)
    assert comparisons.divergence(OWN, RECENT_S).differing == 1
    late = comparisons.divergence(OWN, RECENT_S + 0.1)
    assert (late.in_step, late.differing, late.longest_s) == (1, 0, 0.0)
    assert [step.peer for step in late.peers] == ["gone", "here"]
    comparisons.forget("gone")
    assert [step.peer for step in comparisons.divergence(OWN, RECENT_S).peers] == ["here"]


def test_peers_and_foreign_roots_are_bounded() -> None:
    comparisons = Comparisons()
    for number in range(MAX_PEERS + 10):
        comparisons.differs(f"peer-{number}", OWN, number.to_bytes(8, "big"), 0.0)
    assert len(comparisons) == MAX_PEERS
    assert len(comparisons._roots) == MAX_FOREIGN_ROOTS
    assert comparisons.divergence(OWN, 0.0).differing == MAX_PEERS
