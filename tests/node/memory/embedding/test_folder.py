"""Models of other people: folders of sentence-transformers with an ONNX file.

``tiny_models.json`` has graphs of a few hundred bytes that look each token up in a table of six rows:
``tokens`` gives one vector per token, ``sentence`` also their maximum as ``sentence_embedding``; ``nan``,
``inputs`` and ``rank`` cannot be used.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from node.environment import system_environment
from node.errors import EmbeddingFailed
from node.memory.embedding import EmbeddingSettings, make_embedder
from node.memory.embedding import folder as folder_module
from node.memory.embedding.folder import TOKEN_LIMIT, read_folder
from node.memory.embedding.onnx_engine import LoadedModel

GRAPHS = json.loads((Path(__file__).parent / "tiny_models.json").read_text(encoding="utf-8"))
MEAN = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CLS = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a folder with a tiny model."""

    def written(
        graph: str = "tokens",
        *,
        at: str = "onnx/model.onnx",
        pooling: Any = MEAN,
        name: str = "tiny",
        **config: Any,
    ) -> Path:
        root = tmp_path / name
        (root / at).parent.mkdir(parents=True)
        (root / at).write_bytes(base64.b64decode(GRAPHS[graph]))
        vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "b": 4, "c": 5}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
        tokenizer.enable_padding(length=64)
        tokenizer.save(str(root / "tokenizer.json"))
        (root / "config.json").write_text(
            json.dumps({"hidden_size": 4, "max_position_embeddings": 9} | config)
        )
        if pooling is not None:
            (root / "1_Pooling").mkdir()
            (root / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        return root

    return written


def unit(*numbers: float) -> Any:
    return np.array(numbers, np.float32) / np.float32(np.linalg.norm(numbers))


def vectors(root: Path, *texts: str) -> Any:
    return LoadedModel(read_folder(root), threads=1).vectors(texts)


def refusal(action: Callable[[], Any]) -> EmbeddingFailed:
    with pytest.raises(EmbeddingFailed) as caught:
        action()
    assert caught.value.fix
    return caught.value


def test_mean_pooling_covers_every_token_and_no_padding(write: Write) -> None:
    assert np.allclose(vectors(write(), "a b")[0], unit(4, 1, 4, 1))
    assert np.allclose(vectors(write(name="no-pooling", pooling=None), "a b")[0], unit(4, 1, 4, 1))


def test_cls_pooling_takes_the_first_token(write: Write) -> None:
    assert vectors(write(pooling=CLS), "a b")[0].tolist() == [1, 0, 0, 0]
    assert vectors(write(name="new", pooling={"pooling_mode": "cls"}), "a b")[0].tolist() == [1, 0, 0, 0]


def test_a_graph_that_pools_is_believed(write: Write) -> None:
    assert np.allclose(vectors(write("sentence"), "b c")[0], unit(3, 5, 4, 0))


def test_the_graph_may_lie_beside_the_tokenizer(write: Write) -> None:
    assert vectors(write(at="model.onnx"), "a").any()


def test_texts_are_cut_at_the_limit_of_the_model(write: Write) -> None:
    rows = vectors(write(), "a a a a a a a b", "a a a a a a a")
    assert (rows[0] == rows[1]).all()
    root = write(name="sentences")
    (root / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    assert read_folder(root).max_tokens == 4
    assert read_folder(write(name="long", max_position_embeddings=100_000)).max_tokens == TOKEN_LIMIT


def test_the_digest_is_of_all_that_decides_a_vector(write: Write) -> None:
    first = read_folder(write()).model
    assert first == read_folder(write(name="elsewhere/tiny")).model
    others = [
        read_folder(write("sentence", name="graph")),
        read_folder(write(name="limit", max_position_embeddings=8)),
        read_folder(write(name="pooling", pooling=CLS)),
    ]
    weights = write(name="weights")
    (weights / "onnx" / "model.onnx_data").write_bytes(b"weights")
    vocabulary = write(name="vocabulary")
    (vocabulary / "tokenizer.json").write_text("{}")
    others += [read_folder(weights), read_folder(vocabulary)]
    assert len({first.digest, *(other.model.digest for other in others)}) == 6


async def test_a_folder_is_a_setting(write: Write) -> None:
    settings = EmbeddingSettings(provider="onnx", path=write())
    embedder = await make_embedder(settings, system_environment())
    assert (embedder.model.name, embedder.model.dimension) == ("tiny", 4)
    assert (await embedder.embed(["a", ""])).shape == (2, 4)
    with pytest.raises(EmbeddingFailed, match="path"):
        await make_embedder(EmbeddingSettings(provider="onnx"), system_environment())


async def test_a_model_that_changed_since_the_start_is_refused(write: Write) -> None:
    root = write()
    embedder = await make_embedder(EmbeddingSettings(provider="onnx", path=root), system_environment())
    (root / "onnx" / "model.onnx").write_bytes(base64.b64decode(GRAPHS["sentence"]))
    with pytest.raises(EmbeddingFailed, match="damaged"):
        await embedder.embed(["a"])


@pytest.mark.parametrize(
    ("graph", "why"), [("inputs", "pixel_values"), ("rank", "outputs"), ("nan", "without a direction")]
)
def test_a_graph_that_embeds_no_text_is_refused(write: Write, graph: str, why: str) -> None:
    root = write(graph)
    assert why in refusal(lambda: vectors(root, "a")).why


def test_a_graph_of_another_dimension_is_refused(write: Write) -> None:
    root = write(pooling=None, hidden_size=5)
    assert "4 numbers, not 5" in refusal(lambda: vectors(root, "a")).why


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json"])
def test_rubbish_is_refused(write: Write, name: str) -> None:
    root = write()
    (root / name).write_bytes(b"rubbish")
    assert refusal(lambda: vectors(root, "a")).code == "EMBEDDING_ERROR"


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_a_missing_file_is_refused(write: Write, name: str) -> None:
    root = write()
    (root / name).unlink()
    assert str(root) in refusal(lambda: read_folder(root)).what


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "\x00", "[" * 100_000, '{"hidden_size": 0}', '{"hidden_size": "x"}']
)
def test_a_damaged_description_is_refused(write: Write, text: str) -> None:
    root = write(pooling=None)
    (root / "config.json").write_text(text)
    refusal(lambda: read_folder(root))


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "lasttoken"},
    ],
)
def test_other_pooling_is_refused(write: Write, pooling: Any) -> None:
    root = write(pooling=pooling)
    assert "pools by" in refusal(lambda: read_folder(root)).why


def test_modules_that_are_not_computed_are_refused(write: Write) -> None:
    root = write()
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (root / "modules.json").write_text(json.dumps(modules))
    assert "Dense" in refusal(lambda: read_folder(root)).why
    (root / "modules.json").write_text(json.dumps(modules[:2] + modules[3:]))
    assert read_folder(root).pooling == "mean"


def test_files_beyond_the_limits_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write()
    monkeypatch.setattr(folder_module, "TOKENIZER_BYTES_LIMIT", 10)
    assert "more than 10 bytes" in refusal(lambda: read_folder(root)).why
    monkeypatch.setattr(folder_module, "CONFIG_BYTES_LIMIT", 5)
    assert "more than 5 bytes" in refusal(lambda: read_folder(root)).why
