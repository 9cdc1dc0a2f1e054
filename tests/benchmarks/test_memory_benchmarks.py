"""The scripts of benchmarks/memory run, with the smallest sizes; what they measure is no concern here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.memory import corpus, embedding


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
