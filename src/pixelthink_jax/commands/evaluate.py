"""`pixelthink evaluate`: a policy and a segmenter over a dataset, once for each chain style."""

import dataclasses
from dataclasses import dataclass

from pixelthink_jax.commands import config_path
from pixelthink_jax.config import load_config
from pixelthink_jax.evaluation.config import EvalConfig


@dataclass(frozen=True)
class Args(EvalConfig):
    """Flags of `pixelthink evaluate`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML file of settings (see configs/)."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names."""
    path = config_path(argv)
    if path is None:
        return Args()
    settings = load_config(EvalConfig, path)
    return Args(
        config=str(path), **{f.name: getattr(settings, f.name) for f in dataclasses.fields(EvalConfig)}
    )


def main(args: Args) -> None:
    """Evaluates with a bar for each style, and prints the table."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.evaluation.run import evaluate

    with progress_bar() as bar:
        tasks = {style: bar.add_task(style, total=None, note="") for style in args.styles}

        def show(style: str, done: int, total: int) -> None:
            bar.update(tasks[style], completed=done, total=total)

        table = evaluate(args, on_progress=show)
    print(table.markdown())
    print(f"rows, summary.json and table.md are in {args.out}")
