"""Identifiers are UUIDv7 (RFC 9562) and sort by the order in which a process made them."""

from __future__ import annotations

from uuid import UUID

from node.environment import system_environment


def test_identifiers_made_one_after_the_other_sort_and_differ() -> None:
    environment = system_environment()
    made = [environment.new_id() for _ in range(5_000)]
    assert made == sorted(set(made))


def test_an_identifier_tells_its_version_and_when_it_was_made() -> None:
    environment = system_environment()
    before_ms = int(environment.clock.wall() * 1000)
    made = UUID(environment.new_id())
    assert before_ms <= made.int >> 80 <= int(environment.clock.wall() * 1000)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
