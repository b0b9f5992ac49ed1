"""`pixelthink demo`: the tiny models on held-out scenes, and a report with pictures."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink demo`."""

    out: Path = Path("demo")
    """Folder for report.html and its numbers."""
    scenes: int = 100
    """Held-out scenes to evaluate."""
    policy: Path | None = None
    """Policy folder; the tiny one that travels with the package if not given."""
    segmenter: Path | None = None
    """Segmenter folder; the tiny one that travels with the package if not given."""


def main(args: Args) -> None:
    """Runs the demonstration with a progress bar, prints the headline table and where the report is."""
    import jax

    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.demo import DemoConfig, run_demo
    from pixelthink_jax.evaluation.length_table import headline

    config = DemoConfig(out=args.out, scenes=args.scenes, policy=args.policy, segmenter=args.segmenter)
    device = jax.devices()[0]
    print(
        f"running on {device.platform} ({device.device_kind}); the first answers wait for compilation",
        flush=True,
    )
    with progress_bar() as bar:
        tasks = {stage: bar.add_task(stage, total=None, note="") for stage in ("pictures", "evaluation")}

        def show(stage: str, done: int, total: int) -> None:
            bar.update(tasks[stage], completed=done, total=total)

        found = run_demo(config, on_progress=show)
    print(headline(found.table.summaries["free"]))
    print(f"\nreport: {found.report.resolve()}")
