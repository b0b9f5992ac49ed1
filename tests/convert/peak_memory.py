"""Converts a random model both ways in this process and prints, as JSON, by how much its memory grew.

python -m tests.convert.peak_memory FOLDER [PRESET]
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict
from ml_dtypes import bfloat16

from pixelthink_jax.convert import convert, verify_checksums
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.qwen_vl.presets import PRESETS
from pixelthink_jax.models.qwen_vl.table import tensor_table
from pixelthink_jax.models.weights import group_by_leaf, leaf_shape
from pixelthink_jax.runtime.stored_arrays import StoredArray

# 200 M parameters, of which each of embedding and head is a third.
MEDIUM = QwenVLConfig(
    TextConfig(65536, 1024, 2816, num_layers=5, num_heads=8, num_kv_heads=2),
    VisionConfig(depth=2, hidden_size=256, intermediate_size=512, num_heads=4, out_hidden_size=1024),
    tie_word_embeddings=False,
)
SMALL = QwenVLConfig(
    TextConfig(256, 64, 64, num_layers=1, num_heads=2, num_kv_heads=1, mrope_section=(4, 6, 6)),
    VisionConfig(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=64),
)


def random_leaf(shape: tuple[int, ...], seed: int) -> StoredArray:
    """Bits that differ from place to place and need no memory."""

    def read(index):
        part = tuple(s.stop - s.start for s in index)
        bits = np.random.default_rng([seed, *(s.start for s in index)]).bytes(2 * int(np.prod(part)))
        return np.frombuffer(bits, np.uint16).reshape(part).view(bfloat16)

    return StoredArray(shape, np.dtype(bfloat16), read)


def write_random(folder: Path, config: QwenVLConfig) -> None:
    groups = group_by_leaf(tensor_table(config))
    leaves = {path: random_leaf(leaf_shape(group), i) for i, (path, group) in enumerate(groups.items())}
    params = unflatten_dict(leaves, sep="/")
    qwen_vl.write_folder(folder, params, config, dtype="bfloat16", max_shard_bytes=2_000_000_000)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def both_ways(folder: Path, config: QwenVLConfig) -> dict[str, float]:
    """Seconds of each way; the folders are `there` and `back`."""
    write_random(folder / "from", config)
    began = time.perf_counter()
    convert(folder / "from", folder / "there")
    turned = time.perf_counter()
    convert(folder / "there", folder / "back", max_shard_bytes=2_000_000_000)
    return {"to_orbax": turned - began, "to_huggingface": time.perf_counter() - turned}


def main(folder: Path, preset: str) -> None:
    config = MEDIUM if preset == "medium" else PRESETS[preset]
    both_ways(folder / "small", SMALL)  # what the libraries take is not counted
    before = peak_bytes()
    seconds = both_ways(folder / preset, config)
    growth = peak_bytes() - before
    table = tensor_table(config)
    names = [name for name in (folder / preset / "from").iterdir() if name.suffix == ".safetensors"]
    for name in names:
        assert name.read_bytes() == (folder / preset / "back" / name.name).read_bytes()
    verify_checksums(folder / preset / "there")
    sizes = [2 * int(np.prod(spec.shape)) for spec in table]
    found = {"parameters": sum(sizes) // 2, "largest_tensor": max(sizes), "growth": growth}
    print(json.dumps(found | seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "medium")
