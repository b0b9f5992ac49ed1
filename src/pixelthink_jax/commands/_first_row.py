"""What `pixelthink doctor` reads for real: a row of the data of a config."""

from pathlib import Path
from typing import Any


def try_row(path: Path) -> str:
    """Reads the first row of the data of a run config and says what it is.

    Raises:
        InputError: The config or the row cannot be used.
    """
    from pixelthink_jax.config import load_config, read_tree

    tree: Any = read_tree(path)
    if isinstance(tree, dict) and "stages" in tree:
        from pixelthink_jax.sft.config import SftConfig
        from pixelthink_jax.sft.data import open_data

        source = open_data(load_config(SftConfig, path).stages[0].data, None)
    else:
        from pixelthink_jax.data.sources import open_source
        from pixelthink_jax.evaluation.config import EvalConfig
        from pixelthink_jax.grpo.config import TrainConfig

        evaluates = isinstance(tree, dict) and not tree.keys() <= TrainConfig.__dataclass_fields__.keys()
        source = open_source(**vars(load_config(EvalConfig if evaluates else TrainConfig, path).data))
    row = source[0]
    height, width = row.image.shape[:2]
    target = row.solution or row.completion or "no solution"
    return f"1 of {len(source)}: {row.id}, {width} x {height} pixels, {row.query!r:.60} -> {target:.80}"
