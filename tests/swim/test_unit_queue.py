from swim.unit_queue import MIN_TRANSMISSIONS, UnitQueue, max_transmissions


def drain(queue: UnitQueue, members: int) -> int:
    """Send until nothing waits; return how many transmissions that took."""
    count = 0
    while len(queue):
        count += len(queue.take(1000, members, 3))
    return count


def test_what_is_heard_while_it_waits_is_sent_less_often() -> None:
    queue = UnitQueue()
    queue.add(b"a", b"unit a")
    assert queue.take(1000, 1000, 3) == [b"unit a"]
    for _ in range(4):
        queue.heard(b"a")
    assert drain(queue, 1000) == max_transmissions(1000) - 1 - 4
    assert queue.statistics() == {"queued": 0, "units_sent": 12, "units_spared": 4}


def test_whatever_is_heard_each_holder_sends_a_unit_often_enough_to_reach_all_but_a_few() -> None:
    queue = UnitQueue()
    queue.add(b"a", b"unit a")
    sent = len(queue.take(1000, 1000, 3))
    for _ in range(1000):
        queue.heard(b"a")
    assert sent + drain(queue, 1000) == MIN_TRANSMISSIONS


def test_a_unit_that_was_heard_may_leave_the_queue_at_once() -> None:
    queue = UnitQueue()
    queue.add(b"a", b"unit a")
    for _ in range(max_transmissions(1000) - 1):
        queue.take(1000, 1000, 3)
    assert len(queue) == 1
    queue.heard(b"a")
    assert len(queue) == 0
    queue.heard(b"a")
    assert queue.take(1000, 1000, 3) == []


def test_in_a_small_cluster_hearing_spares_nothing() -> None:
    """Four or eight transmissions are too few already to leave any out."""
    for members in (3, 9, 10, 99):
        queue = UnitQueue()
        queue.add(b"a", b"unit a")
        queue.take(1000, members, 3)
        for _ in range(20):
            queue.heard(b"a")
        assert drain(queue, members) == max_transmissions(members) - 1


def test_what_was_heard_goes_after_what_nobody_else_has_sent() -> None:
    queue = UnitQueue()
    queue.take(1000, 1000, 3)
    for digest in (b"a", b"b"):
        queue.add(digest, b"unit " + digest)
        queue.take(1000, 1000, 3)
    queue.take(10, 1000, 3)
    queue.heard(b"b")
    queue.heard(b"b")
    assert queue.take(10, 1000, 3) == [b"unit a"]


def test_a_unit_too_long_for_the_room_does_not_keep_shorter_ones_back() -> None:
    queue = UnitQueue()
    queue.add(b"long", b"l" * 900)
    queue.add(b"short", b"s" * 10)
    assert queue.take(100, 10, 3) == [b"s" * 10]
    assert queue.take(2000, 10, 3, max_unit_bytes=100) == [b"s" * 10]
    assert queue.take(2000, 10, 3) == [b"l" * 900, b"s" * 10]


def test_units_sent_least_go_first_and_each_a_bounded_number_of_times() -> None:
    queue = UnitQueue()
    queue.add(b"old", b"o" * 10)
    assert queue.take(13, 10, 3) == [b"o" * 10]
    queue.add(b"new", b"n" * 10)
    assert queue.take(13, 10, 3) == [b"n" * 10]
    sent = 2
    while len(queue):
        sent += len(queue.take(100, 10, 3))
    assert sent == 2 * max_transmissions(10)
    assert [max_transmissions(n) for n in (1, 3, 9, 10, 99, 100)] == [4, 4, 4, 8, 8, 12]
