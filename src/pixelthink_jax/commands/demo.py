"""`pixelthink demo`: the tiny policy before and after GRPO with the length reward, and a report with pictures."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink demo`."""

    out: Path = Path("demo")
    """Folder for report.html, its numbers and the training run."""
    scenes: int = 500
    """Held-out scenes to evaluate, before and after."""
    steps: int | None = None
    """Updates of the training; those of the recipe if not given."""
    policy: Path | None = None
    """Policy folder; the tiny one that travels with the package if not given."""
    segmenter: Path | None = None
    """Segmenter folder; the tiny one that travels with the package if not given."""


STAGES = ("pictures", "before", "training", "after", "pictures again")


def main(args: Args) -> None:
    """Runs the demonstration with progress bars, prints what changed and where the report is."""
    import jax

    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.demo import DemoConfig, run_demo
    from pixelthink_jax.evaluation.comparison import change_lines

    settings = {} if args.steps is None else {"steps": args.steps}
    config = DemoConfig(
        out=args.out, scenes=args.scenes, policy=args.policy, segmenter=args.segmenter, **settings
    )
    device = jax.devices()[0]
    print(
        f"running on {device.platform} ({device.device_kind}); each stage begins with compilation", flush=True
    )
    with progress_bar() as bar:
        tasks = {stage: bar.add_task(stage, total=None, note="") for stage in STAGES}

        def show(stage: str, done: int, total: int, note: str) -> None:
            bar.update(tasks[stage], completed=done, total=total, note=note)

        found = run_demo(config, on_progress=show)
    print("\n".join(change_lines(found.changes)))
    print(f"\nreport: {found.report.resolve()}")
