"""What a folder of sentence-transformers says about its model: files, pooling, limits, identity.

Read with the standard library alone, so that a node knows the space of its vectors before it loads anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from node.errors import EmbeddingFailed
from node.memory.embedding.embedder import EmbeddingModel

Pooling = Literal["mean", "cls"]

BUNDLED: Final = Path(__file__).parent / "minilm"
"""The model that ships with Caxton; ``scripts/minilm`` builds it."""
TOKEN_LIMIT: Final = 2_048
"""Most tokens of a text that are read, whatever the model says: attention costs their square."""
DIMENSION_LIMIT: Final = 4_096
CONFIG_BYTES_LIMIT: Final = 1024 * 1024
TOKENIZER_BYTES_LIMIT: Final = 64 * 1024 * 1024
GRAPH_BYTES_LIMIT: Final = 2 * 1024**3
"""Of the graph and of each file of weights beside it."""
_GRAPHS: Final = ("onnx/model.onnx", "model.onnx")
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_USE: Final = "caxton: one text per run, pooled over all its tokens, length 1"
"""How vectors are computed, as far as files do not say; another way is another space."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk.

    Attributes:
        model: The space of its vectors.
        graph: The ONNX file.
        tokenizer: The file of the library ``tokenizers``.
        hashes: SHA-256 in hex of each file that decides a vector.
        max_tokens: Tokens of a text that count, special ones included.
        pooling: How one vector is made of those of the tokens, where the graph does not do it.
        optimised: Whether the graph is to be run as it is.
    """

    model: EmbeddingModel
    graph: Path
    tokenizer: Path
    hashes: Mapping[Path, str]
    max_tokens: int
    pooling: Pooling
    optimised: bool = False

    def verify(self) -> None:
        """Compare every file with its hash; takes 0.1 s per 100 MB or less.

        Raises:
            EmbeddingFailed: a file is missing, unreadable or another one.
        """
        for path, expected in self.hashes.items():
            if sha256(path) != expected:
                raise EmbeddingFailed(
                    f"the embedding model {self.model.name} is damaged",
                    why=f"{path} is not the file that it was",
                    fix="Install Caxton again."
                    if self.optimised
                    else "Restore the file, or restart the node.",
                    details={"file": str(path), "sha256": expected},
                )


def bundled(root: Path = BUNDLED) -> ModelFolder:
    """The model that ships with Caxton, as ``model.json`` describes it; its files are not read yet.

    Raises:
        EmbeddingFailed: the description is missing or damaged.
    """
    facts = _config(root / "model.json")
    try:
        hashes = {root / name: str(digest) for name, digest in sorted(facts["files"].items())}
        limit = int(facts["max_tokens"])
        named = {path.name: digest for path, digest in hashes.items()}
        model = EmbeddingModel(str(facts["name"]), _digest(named, limit, "mean"), int(facts["dimension"]))
        graph, tokenizer = root / "model.onnx", root / "tokenizer.json"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unusable(root / "model.json", "it is damaged", "Install Caxton again.") from error
    if set(hashes) != {graph, tokenizer}:
        raise _unusable(root / "model.json", "it names other files", "Install Caxton again.")
    return ModelFolder(model, graph, tokenizer, hashes, limit, "mean", optimised=True)


def read_folder(root: Path) -> ModelFolder:
    """The model in a folder of sentence-transformers with an ONNX file; hashes all of it, which blocks.

    Raises:
        EmbeddingFailed: a file is missing or unreadable, or the model needs something that is not done here.
    """
    graph = next((root / name for name in _GRAPHS if (root / name).is_file()), None)
    if graph is None:
        raise _unusable(root, f"it has neither {_GRAPHS[0]} nor {_GRAPHS[1]}")
    tokenizer = root / "tokenizer.json"
    config = _config(root / "config.json")
    pooling_config = _config(root / "1_Pooling" / "config.json", optional=True)
    pooling = _pooling(root, pooling_config)
    limits = [
        _config(root / "sentence_bert_config.json", optional=True).get("max_seq_length"),
        config.get("max_position_embeddings"),
        TOKEN_LIMIT,
    ]
    max_tokens = min(limit for limit in limits if isinstance(limit, int) and limit > 2)
    sizes = [
        pooling_config.get("word_embedding_dimension"),
        *map(config.get, ("hidden_size", "dim", "d_model")),
    ]
    dimension = next((size for size in sizes if isinstance(size, int)), 0)
    if not 0 < dimension <= DIMENSION_LIMIT:
        raise _unusable(root, f"its vectors have {dimension} numbers; 1 to {DIMENSION_LIMIT} are possible")
    beside = sorted(
        path for path in graph.parent.glob(f"{graph.name}?*") if path.is_file()
    )  # external weights
    hashes = {path: sha256(path) for path in (graph, *beside, tokenizer)}
    named = {path.relative_to(root).as_posix(): digest for path, digest in hashes.items()}
    name = root.resolve().name
    model = EmbeddingModel(name, _digest(named, max_tokens, pooling), dimension)
    return ModelFolder(model, graph, tokenizer, hashes, max_tokens, pooling)


def sha256(path: Path) -> str:
    """The hash of a file of at most its kind's bytes, in hex.

    Raises:
        EmbeddingFailed: it is missing, unreadable or too large.
    """
    limit = TOKENIZER_BYTES_LIMIT if path.name == "tokenizer.json" else GRAPH_BYTES_LIMIT
    try:
        if path.stat().st_size > limit:
            raise _unusable(path, f"it has more than {limit} bytes")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


def _digest(files: Mapping[str, str], max_tokens: int, pooling: Pooling) -> str:
    said = {"use": _USE, "files": files, "max_tokens": max_tokens, "pooling": pooling}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _pooling(root: Path, config: Mapping[str, Any]) -> Pooling:
    modules = root / "modules.json"
    if modules.is_file():
        listed = _config(modules, of=list)
        kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in listed if isinstance(entry, dict)]
        unknown = [kind for kind in kinds if kind not in _MODULES]
        if unknown:
            raise _unusable(root, f"it has a module {unknown[0]}; only {', '.join(_MODULES)} are computed")
    chosen = sorted(key for key, value in config.items() if key.startswith("pooling_mode_") and value is True)
    if isinstance(mode := config.get("pooling_mode"), str):
        chosen = [f"pooling_mode_{mode}"]
    match chosen:
        case [] | ["pooling_mode_mean_tokens"] | ["pooling_mode_mean"]:
            return "mean"
        case ["pooling_mode_cls_token"] | ["pooling_mode_cls"]:
            return "cls"
    raise _unusable(root, f"it pools by {', '.join(chosen)}; only mean and cls are computed")


def _config(path: Path, *, optional: bool = False, of: type = dict) -> Any:
    if optional and not path.is_file():
        return of()
    try:
        if path.stat().st_size > CONFIG_BYTES_LIMIT:
            raise _unusable(path, f"it has more than {CONFIG_BYTES_LIMIT} bytes")
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "it is not JSON") from error
    if not isinstance(read, of):
        raise _unusable(path, f"it is not a JSON {'object' if of is dict else 'array'}")
    return read


def _unusable(path: Path, why: str, fix: str = "") -> EmbeddingFailed:
    return EmbeddingFailed(
        f"the embedding model cannot be read from {path}",
        why=why,
        fix=fix
        or "Name a folder of sentence-transformers with config.json, tokenizer.json and onnx/model.onnx.",
        details={"file": str(path)},
    )
