"""One safetensors file: where its tensors lie, and writing one without ever holding it.

The format is a length (8 bytes), that many bytes of JSON (name -> dtype, shape, first and last byte), and the tensors
one after another.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

STORED_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
        name: Its name in the file.
        shape: Its shape in the file.
        dtype: One of `STORED_DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def tensor_starts(path: Path) -> dict[str, int]:
    """First byte of every tensor of a whole file."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
    first = _LENGTH.size + length
    return {
        name: first + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"
    }


def write_tensors(
    path: Path, tensors: Sequence[Tensor], blocks: Callable[[Tensor], Iterable[np.ndarray]]
) -> None:
    """Writes a file block by block; it appears under its name when it is complete, and is on the disk then.

    Args:
        path: The file.
        tensors: What it holds.
        blocks: Yields the elements of a tensor in the order of the file, in arrays of any shape.

    Raises:
        ValueError: The blocks of a tensor are not as many bytes as its shape says.
    """
    # Larger elements first keeps every tensor aligned.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    # Readers made for PyTorch refuse a file whose metadata does not say so.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.nbytes
        offsets = [begin, end]
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for tensor in ordered:
            before = file.tell()
            for block in blocks(tensor):
                file.write(np.ascontiguousarray(block, tensor.dtype).reshape(-1).view(np.uint8).data)
            if file.tell() - before != tensor.nbytes:
                raise ValueError(
                    f"{tensor.name}: {file.tell() - before} bytes came, {tensor.nbytes} were said"
                )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
