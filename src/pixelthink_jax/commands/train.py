"""`pixelthink train`: GRPO from one config file, continued where it stopped."""

from dataclasses import dataclass, field
from typing import Any

import tyro

from pixelthink_jax.commands import config_path, flag_value, settings_of
from pixelthink_jax.commands._launch import LaunchFlags
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig

SEVERAL_PROCESSES = True


@tyro.conf.configure(tyro.conf.AvoidSubcommands)
@dataclass(frozen=True)
class Args(LaunchFlags, TrainConfig):
    """Flags of `pixelthink train`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML run config (see configs/); the flags below show its settings once it is given."""
    machine: str | None = None
    """Machine whose settings in the config are taken, such as v5e-16; `pixelthink plan` says whether they fit."""
    machines: tyro.conf.Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names; for `--help` without one, a bare run."""
    path = config_path(argv)
    if path is not None:
        config, machine = load_config(TrainConfig, path), flag_value("--machine", argv)
        config = config.on(machine) if machine else config
        return Args(config=str(path), machine=machine, **settings_of(TrainConfig, config))
    if not {"-h", "--help"} & set(argv):
        raise InputError("train: --config is missing; give a run config, such as --config configs/tiny.yaml")
    return Args(out="runs/train")


def main(args: Args) -> int:
    """Trains with a bar, and says where the policy is."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.grpo import train

    config = TrainConfig(**settings_of(TrainConfig, args))
    with progress_bar() as bar:
        task = bar.add_task("training", total=config.steps, note="")

        def show(step: int, metrics: dict[str, float], table: list[dict[str, Any]]) -> None:
            del table
            bar.update(task, completed=step, note=progress_note(metrics))

        run = train(config, callbacks=[show])
    steps = int(run.history[-1]["step"]) if run.history else 0
    ended = "trained" if run.finished else "interrupted; the same command continues; trained"
    print(
        f"{ended} for {steps} of {config.steps} steps; the policy is in {config.out}/policy, the logs beside it"
    )
    return 0


def progress_note(metrics: dict[str, float]) -> str:
    """What the bar shows beside its counts.

    >>> progress_note({"reward": 3.2, "thinking_tokens": 88.0, "kl": 0.01, "seconds/step": 2.0})
    'reward 3.20, 88 thinking tokens, KL 0.0100, 2.0 s a step'
    """
    note = f"reward {metrics['reward']:.2f}, {metrics['thinking_tokens']:.0f} thinking tokens"
    if "kl" in metrics:
        note += f", KL {metrics['kl']:.4f}"
    if "evaluation/giou/all" in metrics:
        note += f", gIoU {metrics['evaluation/giou/all']:.3f}"
    return f"{note}, {metrics['seconds/step']:.1f} s a step"
