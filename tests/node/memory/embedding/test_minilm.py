"""The model that ships: near the float model, the same vector in any company, verified before it is used."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from node.environment import ThreadWorkers, system_environment
from node.errors import EmbeddingFailed
from node.memory.embedding import CoalescingEmbedder, EmbeddingSettings, make_embedder
from node.memory.embedding.folder import BUNDLED, bundled
from node.memory.embedding.onnx_engine import LOAD_AGAIN_AFTER_S, LoadedModel, OnnxEngine

REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text(encoding="utf-8"))
TEXTS: list[str] = REFERENCE["texts"]
FLOAT = np.frombuffer(base64.b64decode(REFERENCE["float16_little_endian"]), "<f2").reshape(len(TEXTS), 384)
FLOAT = FLOAT.astype(np.float64) / np.linalg.norm(FLOAT.astype(np.float64), axis=1, keepdims=True)
BLANK = [index for index, text in enumerate(TEXTS) if not text.strip()]


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedModel]:
    """The model, without what collects texts for it."""
    return LoadedModel(bundled(), threads=1)


class StepClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


async def builtin(**settings: Any) -> CoalescingEmbedder:
    embedder = await make_embedder(EmbeddingSettings(**settings), system_environment())
    assert isinstance(embedder, CoalescingEmbedder)
    return embedder


def test_vectors_are_near_those_of_the_float_model(loaded: LoadedModel) -> None:
    rows = loaded.vectors(TEXTS)
    told = [index for index in range(len(TEXTS)) if index not in BLANK]
    cosines = (rows[told] * FLOAT[told]).sum(1)
    assert len(told) == 38
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.98
    assert np.allclose(np.linalg.norm(rows[told], axis=1), 1, atol=1e-6)


def test_similarities_are_those_of_the_float_model(loaded: LoadedModel) -> None:
    told = [index for index in range(len(TEXTS)) if index not in BLANK]
    rows = loaded.vectors([TEXTS[index] for index in told])
    assert np.abs(rows @ rows.T - FLOAT[told] @ FLOAT[told].T).max() < 0.1


def test_texts_without_tokens_have_zeros(loaded: LoadedModel) -> None:
    assert len(BLANK) == 2
    rows = loaded.vectors([*(TEXTS[index] for index in BLANK), "\n\t", "\x00", "\ufffd"])
    assert not rows.any()


async def test_a_vector_does_not_depend_on_its_company(loaded: LoadedModel) -> None:
    alone = np.concatenate([loaded.vectors([text]) for text in TEXTS])
    assert (loaded.vectors(TEXTS[::-1])[::-1] == alone).all()
    assert (await (await builtin()).embed(TEXTS * 2) == np.concatenate([alone, alone])).all()


def test_another_process_finds_the_same_vectors(loaded: LoadedModel) -> None:
    code = (
        "import hashlib\nfrom node.memory.embedding.folder import bundled\n"
        "from node.memory.embedding.onnx_engine import LoadedModel\n"
        f"rows = LoadedModel(bundled(), threads=1).vectors({TEXTS[:9]!r})\n"
        "print(hashlib.sha256(rows.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(loaded.vectors(TEXTS[:9]).tobytes()).hexdigest()


async def test_what_exceeds_256_tokens_does_not_count() -> None:
    embedder = await builtin()
    full = "word " * 254
    rows = await embedder.embed([full, full + "other " * 2_000_000, "word " * 253 + "other"])
    assert (rows[0] == rows[1]).all()
    assert (rows[0] != rows[2]).any()


async def test_bad_text_has_a_vector_or_zeros() -> None:
    texts = [
        "a\x00b",
        "ab",
        "x\ud800y",
        "\udfff",
        "\ud83d\ude42",
        "\U0001f642",
        "x" * 1_000_000,
        " " * 1_000_000,
    ]
    rows = await (await builtin()).embed(texts)
    assert np.isfinite(rows).all()
    assert (rows[0] == rows[1]).all()  # control characters do not count
    assert (rows[4] == rows[5]).all()
    assert rows.any(1).tolist() == [True, True, True, False, True, True, True, False]


async def test_ten_thousand_texts_leave_the_loop_alone() -> None:
    embedder = await builtin()
    turns = 0
    async with trio.open_nursery() as nursery:

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        rows = await embedder.embed([f"{number % 50}" for number in range(10_000)])
        nursery.cancel_scope.cancel()
    assert rows.shape == (10_000, 384)
    assert (rows[50:100] == rows[:50]).all()
    assert turns > 50
    assert embedder.statistics()["embedded"] == 50


async def test_concurrent_callers_get_their_own_vectors(loaded: LoadedModel) -> None:
    embedder = await builtin(cache_entries=0)
    alone = loaded.vectors(TEXTS)
    got: dict[int, Any] = {}

    async def ask(index: int) -> None:
        got[index] = (await embedder.embed([TEXTS[index]]))[0]

    async with trio.open_nursery() as nursery:
        for index in range(len(TEXTS)):
            nursery.start_soon(ask, index)
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await embedder.embed(TEXTS)
    assert all((got[index] == alone[index]).all() for index in range(len(TEXTS)))
    assert embedder.statistics()["runs"] < len(TEXTS)


def test_what_ships_is_what_is_recorded() -> None:
    facts = json.loads((BUNDLED / "model.json").read_text(encoding="utf-8"))
    for name, digest in facts["files"].items():
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == digest
    assert (BUNDLED / "model.onnx").stat().st_size < 24_000_000
    assert facts["licence"] == "Apache-2.0"
    assert facts["source"]["package"] in (BUNDLED / "NOTICE").read_text(encoding="utf-8")
    model = bundled().model
    assert (model.name, model.dimension, len(model.digest)) == ("all-MiniLM-L6-v2-int8", 384, 64)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "minilm"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit of the weights": lambda root: flip(root / "model.onnx"),
    "a bit of the vocabulary": lambda root: flip(root / "tokenizer.json"),
    "half of the weights": lambda root: (root / "model.onnx").write_bytes(b"half"),
    "no weights": lambda root: (root / "model.onnx").unlink(),
    "no vocabulary": lambda root: (root / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_model_is_refused(copy: Path, damage: Any) -> None:
    folder = bundled(copy)
    damage(copy)
    clock = StepClock()
    embedder = CoalescingEmbedder(OnnxEngine(folder, ThreadWorkers(), clock), cache_entries=1)
    with pytest.raises(EmbeddingFailed) as caught:
        await embedder.embed(["text"])
    assert caught.value.why
    assert caught.value.fix
    assert embedder.statistics()["loaded"] == 0
    assert embedder.statistics()["failure"]


async def test_a_mended_model_is_loaded_after_a_while(copy: Path) -> None:
    clock = StepClock()
    engine = OnnxEngine(bundled(copy), ThreadWorkers(), clock)
    flip(copy / "model.onnx")
    with pytest.raises(EmbeddingFailed):
        await engine.vectors(["text"])
    flip(copy / "model.onnx")
    clock.time = LOAD_AGAIN_AFTER_S - 1
    with pytest.raises(EmbeddingFailed):
        await engine.vectors(["text"])
    clock.time = LOAD_AGAIN_AFTER_S
    assert (await engine.vectors(["text"])).any()
    assert engine.statistics()["failure"] == ""
    await engine.aclose()
    assert engine.statistics()["loaded"] == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": 3}', '{"files": {}, "max_tokens": 1, "name": "x", "dimension": 1}']
)
def test_a_damaged_description_is_refused(copy: Path, content: str) -> None:
    (copy / "model.json").write_text(content, encoding="utf-8")
    with pytest.raises(EmbeddingFailed) as caught:
        bundled(copy)
    assert caught.value.details == {"file": str(copy / "model.json")}


def test_nothing_heavy_is_imported_before_the_first_text() -> None:
    code = (
        "import sys, trio\nfrom node.environment import system_environment\n"
        "from node.memory.embedding import EmbeddingSettings, make_embedder\n"
        "trio.run(make_embedder, EmbeddingSettings(), system_environment())\n"
        "print(sorted({'numpy', 'onnxruntime', 'tokenizers', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_loop_never_imports_or_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes: list[str] = []

    class Watched(ThreadWorkers):
        async def run(self, lane: str, job: Any, *args: Any) -> Any:
            lanes.append(lane)
            return await super().run(lane, partial(job, *args))

    engine = OnnxEngine(bundled(), Watched(), StepClock())
    await engine.vectors(["text"])
    await engine.vectors(["text"])
    assert lanes == ["model", "model", "model"]
