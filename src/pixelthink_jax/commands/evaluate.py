"""`pixelthink evaluate`: a policy and a segmenter over a dataset, once for each chain style."""

from dataclasses import dataclass

from pixelthink_jax.commands import config_path, settings_of
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
    return Args(config=str(path), **settings_of(EvalConfig, load_config(EvalConfig, path)))


def main(args: Args) -> None:
    """Evaluates with a bar for each style, and prints the table."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.evaluation.measures import run_counts
    from pixelthink_jax.evaluation.resume import bad_count
    from pixelthink_jax.evaluation.run import evaluate

    with progress_bar() as bar:
        tasks = {style: bar.add_task(style, total=None, note="") for style in args.styles}

        def show(style: str, done: int, total: int) -> None:
            bar.update(tasks[style], completed=done, total=total)

        table = evaluate(EvalConfig(**settings_of(EvalConfig, args)), on_progress=show)
    print(table.markdown())
    for style, rows in table.rows.items():
        print(f"{style}, protocol {args.protocol}: {run_counts(rows, bad=bad_count(args.out, style)).line()}")
    print(f"rows, summary.json, table.md and report.html are in {args.out}")
