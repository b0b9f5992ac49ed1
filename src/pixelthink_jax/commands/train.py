"""`pixelthink train`: GRPO from one config file, continued where it stopped."""

from dataclasses import dataclass, field
from typing import Any

import tyro

from pixelthink_jax.commands import config_path, flag_value, settings_of, training_end
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
    dry_run: bool = False
    """Open everything, try a checkpoint and two steps, keep nothing, and say what memory and time the run will take."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names; for `--help` without one, a bare run."""
    path = config_path(argv)
    if path is not None:
        config, machine = load_config(TrainConfig, path), flag_value("--machine", argv)
        config = on_machine(config, machine) if machine else config
        return Args(config=str(path), machine=machine, **settings_of(TrainConfig, config))
    if not {"-h", "--help"} & set(argv):
        raise InputError("train: --config is missing; give a run config, such as --config configs/tiny.yaml")
    return Args(out="runs/train")


def on_machine(config: TrainConfig, machine: str) -> TrainConfig:
    """The run with the settings that its config has for a machine, under any of its names.

    Raises:
        InputError: There is no such machine, or the config has no settings for it.
    """
    from pixelthink_jax.plan import known_as, parse_topology

    return config.on(known_as(parse_topology(machine), config.machines) or machine)


def main(args: Args) -> int:
    """Trains with a bar, and says where the policy is."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.grpo import train

    config = TrainConfig(**settings_of(TrainConfig, args))
    if args.dry_run:
        _rehearse(config)
        return 0
    with progress_bar() as bar:
        task = bar.add_task("training", total=config.steps, note="")

        def show(step: int, metrics: dict[str, float], table: list[dict[str, Any]]) -> None:
            del table
            bar.update(task, completed=step, note=progress_note(metrics))

        run = train(config, callbacks=[show])
    steps = int(run.history[-1]["step"]) if run.history else 0
    told, status = training_end(steps, config.steps)
    print(f"{told}; the policy is in {config.out}/policy, the logs beside it")
    return status


def _rehearse(config: TrainConfig) -> None:
    """Makes the dry run and prints its table."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.grpo.dry_run import dry_run

    with progress_bar() as bar:
        task = bar.add_task("dry run", total=2, note="the first step compiles")
        found = dry_run(config, on_step=lambda step: bar.update(task, completed=step))
    row, (first, warm) = found.row, found.steps
    parts = ", ".join(f"{name} {warm[f'seconds/{name}']:.2f}" for name in ("rollout", "host", "update"))
    devices = "not told by this backend"
    if found.device_bytes is not None:
        used, limit = max(found.device_bytes)
        devices = f"{used / 2**30:.2f} of {limit / 2**30:.2f} GiB at the peak, on the fullest of this process"
    lines = {
        **{f"process {index}": host for index, host in enumerate(found.hosts)},
        "checkpoint": found.checkpoint,
        "row": f"{row['id']}: {row['query']!r:.60}, {row['completion_tokens']} tokens, reward {row['reward']:.2f}",
        "first step": f"{first['seconds/step']:.1f} s, compilation included",
        "second step": f"{warm['seconds/step']:.2f} s ({parts})",
        "device memory": devices,
        "host memory": f"{found.host_bytes / 2**30:.2f} GiB at the peak",
        "whole run": f"{config.steps} steps: about {_duration(found.seconds)}, without evaluations and checkpoints",
    }
    for name, text in lines.items():
        print(f"{name:<14} {text}")


def _duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> _duration(50), _duration(5400), _duration(259200)
    ('50 s', '90 min', '72.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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
