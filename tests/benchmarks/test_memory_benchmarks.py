"""The scripts of benchmarks/memory run, with the smallest sizes; what they measure is no concern here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import trio

from benchmarks.memory import __main__ as whole
from benchmarks.memory import corpus, embedding, parts, recall, replication, turns
from benchmarks.memory.vectors import Cache, made_up
from benchmarks.report import PROJECT
from node.memory.embedding import Vectors
from node.memory.embedding.hashing import HashEmbedder


def test_sentences_are_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    files = [tmp_path / "first.txt", tmp_path / "second.txt"]
    for file in files:
        assert corpus.main([str(file), "--limit", "300"]) == 0
    lines = files[0].read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) == 300
    assert files[0].read_bytes() == files[1].read_bytes()


def test_only_prose_is_taken_from_a_docstring() -> None:
    text = (
        "Return the first of the values. It is never\n    an empty one, whatever comes.\n\n"
        ">>> first([1, 2])\nThe prompt makes this an example of something.\n\n"
        "Too short.\n\n0x1 0x2 0x3 0x4 0x5 0x6 ab cd ef gh\n"
    )
    found = list(corpus.split(text))
    assert found == ["Return the first of the values.", "It is never an empty one, whatever comes."]


def test_embedding_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written: list[Mapping[str, object]] = []

    def write(name: str, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> Path:
        assert name == "memory-embedding"
        assert facts["onnxruntime"]
        written.extend(rows)
        return Path("nowhere.csv")

    monkeypatch.setattr(embedding, "write", write)
    monkeypatch.setattr(embedding, "LENGTHS", (8,))
    monkeypatch.setattr(embedding, "BATCHES", (1, 2))
    monkeypatch.setattr(embedding, "AT_LEAST", 1)
    assert (
        embedding.main(["--runs", "1", "--seconds", "0", "--short-seconds", "0", "--sentences", "300"]) == 0
    )
    measures = {str(row["measure"]) for row in written}
    assert set(embedding.GOALS) <= measures
    assert {"8 tokens, 1 at once, p50", "8 tokens, 2 at once, p50"} <= measures
    assert "| short texts per second |" in capsys.readouterr().out


def test_everything_is_measured_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[Mapping[str, object]] = []

    def write(name: str, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> Path:
        assert (name, facts["real_vectors"]) == ("memory", "30")
        written.extend(rows)
        return tmp_path / "memory.csv"

    monkeypatch.setattr(whole, "write", write)
    sizes = ["--observations", "40", "--real", "30", "--questions", "3", "--searches", "1"]
    assert whole.main(["--cache", str(tmp_path), *sizes, "--seconds", "0", "--operations", "0"]) == 0
    told = {(row["measure"], row["figure"]) for row in written}
    elsewhere = {"short texts embedded", "resident memory of the model", "replication to each of 4 peers"}
    assert {(goal.measure, goal.figure) for goal in whole.GOALS if goal.measure not in elsewhere} <= told
    assert {row["observations"] for row in written} == {40}
    assert "| vector search, wall_p99 | <= 6 ms |" in capsys.readouterr().out
    assert (tmp_path / "memory.svg").read_text(encoding="utf-8").count("<circle") == len(whole.CURVES)


def test_vectors_are_made_once(tmp_path: Path) -> None:
    class Counting(HashEmbedder):
        asked = 0

        async def embed(self, texts: Sequence[str]) -> Vectors:
            Counting.asked += len(texts)
            return await super().embed(texts)

    async def run() -> None:
        embedder = Counting()
        for texts in (["one text"], ["one text", "another"]):
            cache = Cache(tmp_path, embedder.model.digest, embedder.model.dimension)
            await cache.fill(texts, embedder)
            assert np.array_equal(cache.vectors(texts), await embedder.embed(texts))

    trio.run(run)
    assert Counting.asked == 1 + 1 + 3  # what was missing, and then all for the comparison


def test_a_record_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    embedder = HashEmbedder()
    cache = Cache(tmp_path, embedder.model.digest, embedder.model.dimension)
    trio.run(cache.fill, ["one text", "another"], embedder)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    cache = Cache(tmp_path, embedder.model.digest, embedder.model.dimension)
    assert cache.missing(["one text", "another"]) == ["another"]
    trio.run(cache.fill, ["another"], embedder)
    assert cache.missing(["one text", "another"]) == []


def test_made_up_vectors_are_as_near_to_real_ones_as_is_said() -> None:
    real = np.eye(2, 384, dtype=np.float32)
    made = made_up(real, 4)
    assert np.allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)
    assert np.allclose((made * real[[0, 1, 0, 1]]).sum(1), 0.86, atol=0.03)


def _prepare(folder: Path) -> None:
    """A folder that has sentences and vectors."""
    texts = [f"This is the sentence number {number} of them all." for number in range(90)]
    (folder / "sentences.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    embedder = HashEmbedder()
    cache = Cache(folder, embedder.model.digest, 384)
    trio.run(cache.fill, texts, embedder)


def test_parts_and_recall_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: dict[str, Sequence[Mapping[str, object]]] = {}

    def write(name: str, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> Path:
        written[name] = rows
        return tmp_path / f"{name}.csv"

    _prepare(tmp_path)
    for module in (parts, recall):
        monkeypatch.setattr(module, "write", write)
        monkeypatch.setattr(module, "QUESTIONS", 5)
    monkeypatch.setattr(parts, "ROUNDS", 1)
    monkeypatch.setattr(parts, "WALKS", 1)
    assert parts.main(["--cache", str(tmp_path), "--stored", "30", "--csv"]) == 0
    told = {(row["measure"], row["part"]) for row in written["memory-parts"]}
    assert {("hybrid search", f"{name}, p50") for name in ("all of it", "by words", "by meaning")} <= told
    assert {("storing", "all of it"), ("walk, depth 3 and fan-out 10", "statements, p99")} <= told
    assert recall.main(["--cache", str(tmp_path), "--questions", "5", "--csv"]) == 0
    shares = {row["way"]: row["recall"] for row in written["memory-recall"]}
    assert {"a scale for each", "a scale for each, centred", "one scale for all, all compared"} <= set(shares)
    assert all(0.0 < float(str(share)) <= 1.0 for share in shares.values())


def test_a_checkout_answers_as_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _prepare(tmp_path)
    sizes = ["--observations", "40", "--calls", "3", "--rounds", "1"]
    assert turns.main(["--cache", str(tmp_path), "--before", str(PROJECT), *sizes]) == 0
    shown = capsys.readouterr().out
    assert "answers that differ: 0" in shown
    assert all(f"| {kind} | {checkout} |" in shown for kind in turns.KINDS for checkout in ("before", "now"))


def test_how_long_threads_wait_for_a_processor_is_counted_where_the_system_counts_it() -> None:
    waits = replication.Waits()
    before, after = waits.total_ms(), waits.total_ms()
    counts = Path("/proc/self/schedstat").exists()
    assert (before is not None) == (after is not None) == counts
    if before is not None and after is not None:
        assert 0.0 <= before <= after
