"""`pixelthink evaluate`: a policy and a segmenter over a dataset, once for each chain style."""

from dataclasses import dataclass

import tyro

from pixelthink_jax.commands import config_path, settings_of
from pixelthink_jax.commands._launch import LaunchFlags
from pixelthink_jax.config import load_config
from pixelthink_jax.evaluation.config import EvalConfig

SEVERAL_PROCESSES = True


@tyro.conf.configure(tyro.conf.AvoidSubcommands)
@dataclass(frozen=True)
class Args(LaunchFlags, EvalConfig):
    """Flags of `pixelthink evaluate`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML file of settings (see configs/)."""
    yes: bool = False
    """Agree that images leave this machine to be judged, without being asked."""


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
    from pixelthink_jax.evaluation.run import evaluate

    config = EvalConfig(**settings_of(EvalConfig, args))
    confirmed = args.yes or _agreed(config)
    with progress_bar() as bar:
        tasks = {style: bar.add_task(style, total=None, note="") for style in args.styles}

        def show(style: str, done: int, total: int) -> None:
            bar.update(tasks[style], completed=done, total=total)

        table = evaluate(config, on_progress=show, confirmed=confirmed)
    print(table.markdown())
    for style, rows in table.rows.items():
        details = table.details[style]
        counts = run_counts(rows, bad=details["counts"]["bad"])
        print(f"{style}, protocol {args.protocol}: {counts.line()}")
        if "judging" in details:
            print(details["judging"]["line"])
    print(f"rows, summary.json, table.md and report.html are in {args.out}")


def _agreed(config: EvalConfig) -> bool:
    """Whether images may go to where they are judged; True where they stay."""
    from pixelthink_jax.evaluation.judging import leaves_for

    place = leaves_for(config)
    if place is None:
        return True
    from pixelthink_jax.commands._leave import agrees
    from pixelthink_jax.data.sources import open_source

    rows = len(open_source(**vars(config.data)))
    styles = len(config.styles)
    return agrees("evaluate", rows, place, f"calls   at most {rows * styles:,}, one for each thought")
