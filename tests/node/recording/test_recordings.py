"""A recording's file: private, bounded, readable up to where it breaks off, and no crash for its reader."""

import random
import stat
from dataclasses import dataclass

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.recording import format as file_format
from node.recording.chance import generator, state_of
from node.recording.format import (
    FORMAT,
    MAGIC,
    Core,
    End,
    Header,
    Recording,
    RecordingInvalid,
    RecordingUnwritable,
    Step,
    header_bytes,
    record_bytes,
)
from node.recording.tape import MAX_OUTPUT_BYTES, MIN_LIMIT_BYTES, NoTape, Recorder, digest_of
from node.recording.values import UnknownValue, pack, unpack
from node.vocabulary import Performative

HEADER = Header("n1", "0.1.0", "3.11.9", "1.3", 1_800_000_000.0)
STEPS = [Step(0, "add", pack([number]), (("now", b"", 1.5),), bytes(16), pack([])) for number in range(3)]
WHOLE = header_bytes(HEADER) + b"".join(map(record_bytes, [Core(0, "sum", 1), *STEPS, End("done")]))


@dataclass(frozen=True)
class Pair:
    first: object
    second: object


CLASSES = {"Pair": Pair, "Performative": Performative}


class Total:
    """A core as small as can be."""

    def __init__(self, tape):
        self.total, self.tape = 0, tape

    def add(self, number):
        self.total += number + self.tape.draw("bonus", b"", lambda: 1)
        self.tape.emit("told", self.total)
        return self.total

    def add_twice(self, number):
        self.add(number)
        return self.add(number)

    def fail(self):
        raise ValueError("no")


def recorder(tmp_path, **options):
    return Recorder(tmp_path / "a.rec", HEADER, lambda: 0.0, **options)


def recorded(found, recorder_):
    """A total whose verbs are recorded."""
    tape = recorder_.core("sum", 1)
    total = Total(tape)
    tape.watch(total, {"add": "add", "add_twice": "add_twice", "fail": "fail"})
    found.append(tape)
    return total


def read(path):
    recording = Recording(path)
    return list(recording.records()), recording


def test_what_is_recorded_is_read_again(tmp_path):
    found = recorder(tmp_path)
    total = recorded([], found)
    assert total.add(4) == 5
    assert total.add_twice(1) == 9
    with pytest.raises(ValueError, match="no"):
        total.fail()
    found.stop("enough")
    (core, first, second, third, end), recording = read(found.path)
    assert (core, end, recording.broken) == (Core(0, "sum", 1), End("enough"), "")
    assert recording.header == HEADER
    assert (first.verb, unpack(first.arguments, {}, max_bytes=99)) == ("add", (None, (4,), {}))
    assert first.draws == (("bonus", b"", 1),)
    assert unpack(first.outputs, {}, max_bytes=99) == (("told", 5), ("returned", 5))
    assert first.digest == digest_of(first.outputs)
    assert second.verb == "add_twice", "a verb inside another is part of it"
    assert len(second.draws) == 2
    assert unpack(third.outputs, {}, max_bytes=99) == (("raised", "ValueError", "no"),)


def test_a_recording_is_its_owners_alone_and_overwrites_nothing(tmp_path):
    found = recorder(tmp_path)
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o600
    with pytest.raises(RecordingUnwritable, match="exists"):
        recorder(tmp_path)
    found.stop("enough")
    target = tmp_path / "elsewhere"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(RecordingUnwritable):
        Recorder(tmp_path / "link", HEADER, lambda: 0.0)
    assert not target.exists()
    with pytest.raises(RecordingUnwritable, match="directory"):
        Recorder(tmp_path / "nowhere" / "a.rec", HEADER, lambda: 0.0)


def test_at_its_limit_recording_stops_and_the_core_goes_on(tmp_path, caplog):
    caplog.set_level("INFO")
    found = recorder(tmp_path, limit_bytes=MIN_LIMIT_BYTES)
    total = recorded([], found)
    for _ in range(2_000):
        total.add(0)
    assert total.total == 2_000
    assert found.closed
    assert found.path.stat().st_size <= MIN_LIMIT_BYTES
    records, recording = read(found.path)
    assert 100 < len(records) < 2_000
    assert isinstance(records[-1], End)
    assert "limit" in records[-1].reason
    assert recording.broken == ""
    assert len([line for line in caplog.messages if "limit" in line]) == 1


def test_a_full_disk_ends_the_recording_and_not_the_core(tmp_path, caplog):
    found = recorder(tmp_path)
    total = recorded([], found)
    total.add(1)

    class Full:
        def write(self, *data):
            raise OSError(28, "No space left on device")

        flush = close = write

    real, found._file = found._file, Full()
    try:
        assert [total.add(1), total.add(1)] == [4, 6]
    finally:
        real.close()
    assert found.closed
    assert ["No space left" in line for line in caplog.messages] == [True]
    assert found.statistics()["recording"] == 0


def test_outputs_that_are_too_long_are_kept_as_their_hash(tmp_path):
    found = recorder(tmp_path)
    tape = found.core("sum", 1)
    tape.step("much", lambda: None, lambda: tape.emit("told", bytes(MAX_OUTPUT_BYTES)))
    found.stop("enough")
    step = read(found.path)[0][1]
    assert step.outputs == b""
    assert step.digest == digest_of(pack([["told", bytes(MAX_OUTPUT_BYTES)]]))


def test_what_happens_while_a_tape_is_muted_is_one_answer(tmp_path):
    found = recorder(tmp_path)
    tape = found.core("sum", 1)

    def call():
        with tape.muted():
            secret = tape.draw("secret", b"", lambda: 42)
        return tape.draw("answer", b"", lambda: secret + 1)

    assert tape.step("ask", lambda: None, call) == 43
    found.stop("enough")
    assert read(found.path)[0][1].draws == (("answer", b"", 43),)


def test_without_a_recording_answers_go_through():
    assert NoTape().draw("now", b"", lambda: 3) == 3


def test_it_is_readable_wherever_it_breaks_off(tmp_path):
    path = tmp_path / "a.rec"
    begins = len(header_bytes(HEADER))
    whole = [Core(0, "sum", 1), *STEPS, End("done")]
    for size in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:size])
        if size < begins:
            with pytest.raises(RecordingInvalid):
                Recording(path)
            continue
        records, recording = read(path)
        assert records == whole[: len(records)]
        assert (recording.broken == "") == (size == len(WHOLE)), size
    assert records == whole


def test_nothing_after_a_damaged_record_counts(tmp_path):
    path = tmp_path / "a.rec"
    begins = len(header_bytes(HEADER))
    for at in range(begins, len(WHOLE)):
        altered = bytearray(WHOLE)
        altered[at] ^= 0x40
        path.write_bytes(altered)
        records, recording = read(path)
        assert records == [Core(0, "sum", 1), *STEPS, End("done")][: len(records)]
        assert len(records) < 5
        assert recording.broken


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no recording"),
        (b"{}", "is no recording"),
        (bytes(range(200)), "is no recording"),
        (MAGIC + (FORMAT + 1).to_bytes(2, "big") + b"whatever", f"format {FORMAT + 1}"),
        (MAGIC + FORMAT.to_bytes(2, "big"), "whole header"),
        (MAGIC + FORMAT.to_bytes(2, "big") + b"\xff" * 40, "whole header"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path, content, said):
    path = tmp_path / "a.rec"
    path.write_bytes(content)
    with pytest.raises(RecordingInvalid) as refusal:
        Recording(path)
    assert said in str(refusal.value)
    with pytest.raises(RecordingInvalid, match="cannot read"):
        Recording(tmp_path / "nowhere")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_never_crash_the_reader(tmp_path_factory, data, is_framed):
    path = tmp_path_factory.getbasetemp() / "random.rec"
    path.write_bytes(header_bytes(HEADER) + (file_format._framed(data) if is_framed else data))
    records, recording = read(path)
    assert recording.broken or isinstance(records[-1], End)
    path.write_bytes(data)
    with pytest.raises(RecordingInvalid):
        Recording(path)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(Performative),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_values_come_back_as_they_were(value):
    assert unpack(pack(value), CLASSES, max_bytes=10_000) == value


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), values.map(pack).map(lambda data: data[:-1])))
def test_what_is_no_value_is_a_typed_error(data):
    try:
        unpack(data, CLASSES, max_bytes=1_000)
    except UnknownValue:
        return
    assert data, "what could be read was a value"


@pytest.mark.parametrize(
    "tree",
    [
        {"is": ["Recorder", []]},
        {"is": ["Pair", [1]]},
        {"is": ["Performative", ["request"]]},
        {"of": ["Pair", 1]},
        {"of": ["Performative", "sing"]},
        {"map": [[[{"map": []}], 1]]},
        {"map": [[1]]},
        {"what": 1},
        {},
    ],
)
def test_only_classes_that_the_reader_names_are_built(tree):
    with pytest.raises(UnknownValue):
        unpack(cbor2.dumps(tree), CLASSES, max_bytes=1_000)


def test_what_cannot_be_recorded_is_said_at_once():
    with pytest.raises(TypeError, match="object"):
        pack([object()])


def test_a_generator_goes_on_from_its_state():
    chance = random.Random(7)
    chance.random()
    again = generator(state_of(chance))
    assert [again.random() for _ in range(700)] == [chance.random() for _ in range(700)]
    with pytest.raises(ValueError, match="state"):
        generator(b"abcd")
