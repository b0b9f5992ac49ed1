"""`pixelthink train-segmenter`: a segmenter from one config file, continued where it stopped."""

from dataclasses import dataclass

import tyro

from pixelthink_jax.commands import config_path, settings_of, training_end
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.train_segmenter.config import SegmenterConfig


@tyro.conf.configure(tyro.conf.AvoidSubcommands)
@dataclass(frozen=True)
class Args(SegmenterConfig):
    """Flags of `pixelthink train-segmenter`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML run config (see configs/); the flags below show its settings once it is given."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names; for `--help` without one, a bare run."""
    path = config_path(argv)
    if path is not None:
        return Args(config=str(path), **settings_of(SegmenterConfig, load_config(SegmenterConfig, path)))
    if not {"-h", "--help"} & set(argv):
        raise InputError(
            "train-segmenter: --config is missing; give a run config, such as --config configs/segmenter_tiny.yaml"
        )
    return Args(out="runs/segmenter", steps=1000, segmenter="models/segmenter")


def main(args: Args) -> int:
    """Trains to the end, with a bar, and says where the segmenter is and how good."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.train_segmenter.run import run_train_segmenter

    config = SegmenterConfig(**settings_of(SegmenterConfig, args))
    with progress_bar() as bar:
        task = bar.add_task("training", total=config.steps, note="")

        def on_log(step: int, metrics: dict[str, float]) -> None:
            note = f"mask IoU {metrics['iou']:.3f}, {metrics['seconds_per_step']:.2f} s a step"
            bar.update(task, completed=step, note=note)

        run = run_train_segmenter(config, on_log=on_log)
    told, status = training_end(run.steps, config.steps)
    print(f"{told}; the segmenter is in {config.out}/segmenter")
    found = ", ".join(f"{name} {value:.4f}" for name, value in run.held_out.items())
    print(
        f"on {config.held_out_scenes} held-out scenes: {found}"
        if found
        else "not measured on held-out scenes"
    )
    return status
