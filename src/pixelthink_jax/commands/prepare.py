"""`pixelthink prepare`: a dataset built once, as ArrayRecord files that training and evaluation read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink prepare`."""

    dataset: Annotated[Literal["shapes"], tyro.conf.Positional]
    """What to build: the ShapeReason world."""
    out: Path
    """Parent folder; the dataset goes to a folder of its own in it."""
    sizes: dict[str, int] | None = None
    """Rows of each split, such as "train 2000 test 500"; every split at a small size if not given."""
    seed: int = 0
    """Seed of the world."""


def main(args: Args) -> None:
    """Builds the dataset and says how to read it."""
    from pixelthink_jax.data.shapes_builder import SMALL_SIZES, build_shapereason
    from pixelthink_jax.segmentation import check_out_dir

    check_out_dir(args.out)
    sizes = args.sizes or SMALL_SIZES
    folder = build_shapereason(args.out, sizes, seed=args.seed)
    rows = ", ".join(f"{split} {count}" for split, count in sizes.items())
    print(
        f"built {folder} ({rows} rows); read it with data: {{name: array_record, path: {folder}, split: ...}}"
    )
