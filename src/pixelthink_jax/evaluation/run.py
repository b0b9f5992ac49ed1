"""A whole evaluation from its config: models and data opened, questions asked, results written."""

from pathlib import Path

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig
from pixelthink_jax.evaluation.length_table import LengthTable, StyleProgress, forced_length_table
from pixelthink_jax.segmentation import check_out_dir, default_folder, load_policy, load_segmenter
from pixelthink_jax.segmentation.loading import TINY_POLICY, TINY_SEGMENTER


def evaluate(config: EvalConfig, *, on_progress: StyleProgress | None = None) -> LengthTable:
    """Runs an evaluation and writes its rows, summary and table to `config.out`.

    Args:
        config: Models, questions and chain styles.
        on_progress: Called with (style, examples done, examples in all) after each batch.

    Raises:
        InputError: A model, the dataset or the folder cannot be used; nothing has been written then.
    """
    data = config.data
    check_out_dir(config.out)
    source = open_source(data.name, split=data.split, path=data.path, examples=data.examples)
    segmenter = None if config.segmenter is None else load_segmenter(model_folder(config.segmenter))
    table = forced_length_table(
        load_policy(model_folder(config.policy), dtype=config.dtype),
        source,
        styles=config.styles,
        segmenter=segmenter,
        generation=config.generation,
        seed=config.seed,
        on_progress=on_progress,
    )
    table.save(config.out, about=to_tree(config))
    return table


def model_folder(name: str) -> Path:
    """A model folder as given, or that of a tiny model by its name.

    Raises:
        InputError: There is no such folder.
    """
    path = Path(name)
    if path.exists():
        return path
    if name in (TINY_POLICY, TINY_SEGMENTER):
        return default_folder(name)
    raise InputError(f"model {name}: no such folder; give one, or {TINY_POLICY} or {TINY_SEGMENTER}")
