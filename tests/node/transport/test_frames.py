"""Frames: what is read is what was written, and nothing else is accepted."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import PeerRejected
from node.message import Envelope
from node.security import pki
from node.security.identity import NodeCredentials
from node.security.permissions import FRAMES
from node.transport.frames import (
    FRAME_NAMES,
    HEADER_BYTES,
    MAX_KEYS,
    MAX_WINDOW,
    PROTOCOL_VERSION,
    Answer,
    Ask,
    Credit,
    Deliver,
    DeliverItem,
    DeliveryKey,
    Frame,
    Goodbye,
    Grant,
    Hello,
    KeyState,
    Outcome,
    Ping,
    Pong,
    Received,
    Resume,
    ResumeStates,
    Settled,
    Welcome,
    decode,
    encode,
)
from node.transport.proof import sign_deliver, verify_deliver
from node.vocabulary import TEXT_LIMIT
from tests.node.security.environments import seeded

texts = st.text(min_size=1, max_size=20)
names = st.from_regex(r"[a-z0-9]{1,10}", fullmatch=True)
counts = st.integers(0, 2**31 - 1)
keys = st.builds(DeliveryKey, texts, texts, counts)
envelopes = st.builds(
    Envelope, target=texts, attempt=counts, route_epoch=counts, hops=counts,
    remaining_s=st.floats(0, 1e9), traceparent=st.text(max_size=60),
)  # fmt: skip
items = st.builds(DeliverItem, envelopes, texts, st.binary(min_size=1, max_size=60))
ended = st.sampled_from(["settled", "failed", "refused"])
held = st.sampled_from(["settled", "failed", "refused", "held", "unknown"])


def some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, min_size=1, max_size=4).map(tuple)


frames = st.one_of(
    st.builds(Hello, st.just(PROTOCOL_VERSION), names, texts, texts),
    st.builds(Welcome, st.just(PROTOCOL_VERSION), names, texts),
    st.builds(Resume, some(keys)),
    st.builds(ResumeStates, some(st.builds(KeyState, keys, held, st.text(max_size=9)))),
    st.builds(Deliver, some(items), st.binary(min_size=1, max_size=99), st.binary(min_size=64, max_size=64)),
    st.builds(Received, some(keys)),
    st.builds(Settled, some(st.builds(Outcome, keys, ended, st.text(max_size=9)))),
    st.builds(Credit, some(st.builds(Grant, texts, st.integers(1, MAX_WINDOW)))),
    st.builds(Ping, counts),
    st.builds(Pong, counts),
    st.builds(Goodbye, st.text(max_size=99)),
    st.builds(Ask, counts, texts, texts),
    st.builds(Answer, counts, st.sampled_from(["known", "unknown", "refused"]), st.binary(max_size=99)),
)


@given(frames)
def test_every_frame_survives_the_wire(frame: Frame) -> None:
    data = encode(frame)
    assert int.from_bytes(data[:HEADER_BYTES], "big") == len(data) - HEADER_BYTES
    assert decode(data[HEADER_BYTES:]) == frame


@given(st.binary(max_size=200))
def test_random_bytes_are_a_frame_or_rejected(data: bytes) -> None:
    with contextlib.suppress(PeerRejected):
        frame = decode(data)
        assert decode(encode(frame)[HEADER_BYTES:]) == frame


@given(frames, st.data())
def test_altered_frames_are_rejected_or_are_another_frame(frame: Frame, data: st.DataObject) -> None:
    body = bytearray(encode(frame)[HEADER_BYTES:])
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(PeerRejected):
        found = decode(bytes(body))
        assert found != frame
        assert decode(encode(found)[HEADER_BYTES:]) == found


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 20)
    | st.text(max_size=5)
    | st.binary(max_size=70)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@given(st.integers(1, 10), st.lists(plain, max_size=5))
def test_any_values_are_a_frame_or_rejected(kind: int, values: list[object]) -> None:
    with contextlib.suppress(PeerRejected):
        decode(msgspec.msgpack.encode([kind, *values]))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1, 3, "a", "s", "b"], "version"),
        ([1, 7], "version"),
        ([2, 9, "x", "y", "z", 4], "version"),
        ([1, PROTOCOL_VERSION, "Not a name", "s", "b"], "frame"),
        ([3, []], "frame"),
        ([3, [["m", "t", 0]] * (MAX_KEYS + 1)], "frame"),
        ([3, [["m", "t", True]]], "frame"),
        ([7, [["m", "t", 0, "held", ""]]], "frame"),
        ([7, [["m", "t", 0, ["settled"], ""]]], "frame"),
        ([8, -1], "frame"),
        ([8, 1.0], "frame"),
        ([10, "x" * (TEXT_LIMIT + 1)], "frame"),
        ([99], "frame"),
        ([True, 1], "frame"),
        ([], "frame"),
        ({}, "frame"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_rejected_with_its_reason(values: object, reason: str) -> None:
    with pytest.raises(PeerRejected) as caught:
        decode(msgspec.msgpack.encode(values))
    assert caught.value.details == {"reason": reason}


def test_the_largest_batches_fit_a_frame() -> None:
    key = DeliveryKey("\U0001f600" * TEXT_LIMIT, "\U0001f600" * TEXT_LIMIT, 2**31 - 1)
    outcome = Outcome(key, "refused", "\U0001f600" * TEXT_LIMIT)
    frame = Settled((outcome,) * MAX_KEYS)
    assert decode(encode(frame)[HEADER_BYTES:]) == frame
    item = DeliverItem(
        Envelope(key.target, traceparent="t" * TEXT_LIMIT), key.message_id, b"x" * (4 * 1024 * 1024)
    )
    big = Deliver((item,), b"c", b"s" * 64)
    assert decode(encode(big)[HEADER_BYTES:]) == big


def test_every_frame_names_its_permission() -> None:
    assert list(FRAME_NAMES.values()) == list(FRAMES)
    assert set(FRAME_NAMES) == set(Frame.__args__)


class TestProof:
    """What the origin's signature covers."""

    environment, clock = seeded()
    secrets = pki.new_cluster(environment, "prod")
    alpha = NodeCredentials.ephemeral("alpha", environment, secrets=secrets)
    beta = NodeCredentials.ephemeral("beta", environment, secrets=secrets)
    items = (
        DeliverItem(Envelope("agent", traceparent="00-aa"), "m1", b"sealed one"),
        DeliverItem(Envelope("agent", route_epoch=2), "m2", b"sealed two"),
    )
    frame = sign_deliver(alpha.identity, "beta", items)

    def verify(self, frame: Deliver, **changes: str) -> None:
        who = {"receiver": "beta", "origin": "alpha"} | changes
        proof = verify_deliver(frame, authority=self.beta.authority, wall=self.clock.wall(), **who)
        assert proof.origin(self.beta.authority, self.clock.wall()) == "alpha"

    def test_a_frame_that_arrived_as_it_was_sent_is_proven(self) -> None:
        self.verify(self.frame)

    def test_it_cannot_be_shown_to_another_node_or_by_another_peer(self) -> None:
        for changes in ({"receiver": "gamma"}, {"origin": "gamma"}):
            with pytest.raises(PeerRejected):
                self.verify(self.frame, **changes)

    def test_another_cluster_and_an_expired_credential_prove_nothing(self) -> None:
        stranger = NodeCredentials.ephemeral("alpha", seeded(5)[0])
        with pytest.raises(PeerRejected):
            self.verify(sign_deliver(stranger.identity, "beta", self.items))
        late = self.alpha.expires_s + 1
        with pytest.raises(PeerRejected):
            verify_deliver(
                self.frame, receiver="beta", origin="alpha", authority=self.beta.authority, wall=late
            )

    def test_items_cannot_be_dropped_or_swapped(self) -> None:
        for altered in (self.items[:1], self.items[::-1], self.items * 2):
            with pytest.raises(PeerRejected):
                self.verify(msgspec.structs.replace(self.frame, items=altered))

    def test_no_single_byte_of_the_frame_can_change(self) -> None:
        body = encode(self.frame)[HEADER_BYTES:]
        for position in range(len(body)):
            for flip in (0x01, 0x80):
                altered = bytearray(body)
                altered[position] ^= flip
                with pytest.raises(PeerRejected):
                    self.verify(decode(bytes(altered)))  # type: ignore[arg-type]
