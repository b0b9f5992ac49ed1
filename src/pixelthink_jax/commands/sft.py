"""`pixelthink sft`: supervised training of a policy from one config file, continued where it stopped."""

from dataclasses import dataclass

import tyro

from pixelthink_jax.commands import config_path, settings_of, training_end
from pixelthink_jax.commands._launch import LaunchFlags
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.sft.config import SftConfig, StageConfig

SEVERAL_PROCESSES = True


@tyro.conf.configure(tyro.conf.AvoidSubcommands)
@dataclass(frozen=True)
class Args(LaunchFlags, SftConfig):
    """Flags of `pixelthink sft`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML run config (see configs/); the flags below show its settings once it is given."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names; for `--help` without one, a bare run."""
    path = config_path(argv)
    if path is not None:
        return Args(config=str(path), **settings_of(SftConfig, load_config(SftConfig, path)))
    if not {"-h", "--help"} & set(argv):
        raise InputError(
            "sft: --config is missing; give a run config, such as --config configs/sft_tiny.yaml"
        )
    return Args(out="runs/sft", policy="models/policy", stages=(StageConfig("chains", steps=1000),))


def main(args: Args) -> int:
    """Trains to the end, with a bar, and says where the policy is."""
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.sft.run import run_sft

    config = SftConfig(**settings_of(SftConfig, args))
    with progress_bar() as bar:
        task = bar.add_task("training", total=config.steps, note="")

        def on_log(step: int, metrics: dict[str, float]) -> None:
            note = f"loss {metrics['loss']:.4f}, {metrics['seconds_per_step']:.2f} s a step"
            bar.update(task, completed=step, note=note)

        run = run_sft(config, on_log=on_log)
    told, status = training_end(run.steps, config.steps)
    print(f"{told}; the policy is in {config.out}/policy, the log beside it")
    return status
