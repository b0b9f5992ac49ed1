"""`pixelthink evaluate`: a policy and a segmenter over a dataset, once for each chain style."""

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pixelthink_jax.commands._progress import progress_bars
from pixelthink_jax.config import load_config, to_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from pixelthink_jax.evaluation.length_table import LengthTable

_PACKAGED = ("pixelthink-tiny", "sam2-tiny-shapes")


@dataclass(frozen=True)
class Args(EvalConfig):
    """Flags of `pixelthink evaluate`; they override the settings of the file."""

    config: str | None = None
    """YAML file of settings (see configs/)."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names."""
    path = _config_path(argv)
    if path is None:
        return Args()
    settings = load_config(EvalConfig, path)
    return Args(config=path, **{f.name: getattr(settings, f.name) for f in dataclasses.fields(EvalConfig)})


def main(args: Args) -> None:
    """Evaluates, writes rows, summary and table to `out`, and prints the table."""
    table = evaluate(args)
    print(table.markdown())
    print(f"rows, summary.json and table.md are in {args.out}")


def evaluate(config: EvalConfig) -> "LengthTable":
    """Runs an evaluation and writes it to `config.out`.

    Raises:
        InputError: A model, the dataset or the folder cannot be used.
    """
    from pixelthink_jax.data.sources import open_source
    from pixelthink_jax.evaluation.length_table import forced_length_table
    from pixelthink_jax.policy import Policy
    from pixelthink_jax.segmenter import Segmenter

    data = config.data
    source = open_source(data.name, split=data.split, path=data.path, examples=data.examples)
    policy = Policy.from_pretrained(model_folder(config.policy), dtype=config.dtype)
    segmenter = Segmenter.from_pretrained(model_folder(config.segmenter)) if config.segmenter else None
    with progress_bars() as on_progress:
        table = forced_length_table(
            policy,
            source,
            styles=config.styles,
            segmenter=segmenter,
            generation=config.generation,
            seed=config.seed,
            on_progress=on_progress,
        )
    about = {name: value for name, value in to_tree(config).items() if name != "config"}
    table.save(config.out, about=about)
    return table


def model_folder(name: str) -> Path:
    """A folder as given, or that of a model that travels with the package.

    Raises:
        InputError: There is no such folder.
    """
    path = Path(name)
    if not path.exists() and name in _PACKAGED:
        path = Path(str(resources.files("pixelthink_jax") / "assets" / name))
    if not path.is_dir():
        raise InputError(f"model {name}: no such folder; give a model folder, or one of {', '.join(_PACKAGED)}")
    return path


def _config_path(argv: list[str]) -> str | None:
    """The value of `--config FILE` or `--config=FILE`."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--config" and value:
            return value
        if flag.startswith("--config="):
            return flag.removeprefix("--config=")
    return None
