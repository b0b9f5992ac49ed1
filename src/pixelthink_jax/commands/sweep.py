"""`pixelthink sweep`: arms of an experiment, chosen on one split and reported on others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink sweep`."""

    config: Annotated[Path, tyro.conf.Positional]
    """YAML file of the sweep (see configs/sweeps/)."""
    out: str | None = None
    """Folder of the runs and the table, in place of the config's."""
    arms: tuple[str, ...] = ()
    """Only these arms, so that several machines or processes share a folder; the whole sweep then finds them done."""


def main(args: Args) -> None:
    """Runs what is missing, with a line that says what is being done, and prints the table."""
    import dataclasses

    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.config import load_config
    from pixelthink_jax.sweep import SweepConfig, run_sweep

    config = load_config(SweepConfig, args.config)
    if args.out is not None:
        config = dataclasses.replace(config, out=args.out)
    if args.arms:
        config = config.only(args.arms)
    with progress_bar() as bar:
        task = bar.add_task("arms", total=len(config.arms) + 1, note="")
        seen: list[str] = []

        def show(arm: str, doing: str) -> None:
            if arm not in seen:
                seen.append(arm)
            bar.update(task, completed=len(seen) - 1, note=f"{arm}: {doing}")

        run_sweep(config, on_progress=show)
    print((Path(config.out) / "results.md").read_text(encoding="utf-8"))
    print(f"results.md, results.json, results.png and the runs are in {config.out}")
