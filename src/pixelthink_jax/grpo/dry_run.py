"""A rehearsal of a GRPO run: everything opened as in the run, two steps made, nothing kept."""

import contextlib
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.run import train
from pixelthink_jax.runtime.checkpoint_trial import passing_folder, try_checkpoint
from pixelthink_jax.runtime.hosts import together
from pixelthink_jax.runtime.meter import Metrics
from pixelthink_jax.runtime.remote import check_out_dir, is_remote

_STEPS = 2  # the first compiles


@dataclass(frozen=True)
class Rehearsal:
    """What a run will need.

    Attributes:
        hosts: Of each process its machine, versions and devices.
        checkpoint: How fast one is written and read at the run's destination.
        row: The first completion that was paid: `id`, `query`, `text`, `reward`, ... (`scoring.completion_rows`).
        steps: Metrics of the steps made, `seconds/step` among them; the first compiles.
        device_bytes: Largest memory that each device of this process had in use, and what it has; None where the
            backend does not tell.
        host_bytes: Largest memory of this process.
        seconds: Estimate of the whole run, without evaluations and checkpoints.
    """

    hosts: list[str]
    checkpoint: str
    row: dict[str, Any]
    steps: list[Metrics]
    device_bytes: list[tuple[int, int]] | None
    host_bytes: int
    seconds: float


class _EnoughError(Exception):
    """Ends a run after the steps that are asked for."""


def dry_run(config: TrainConfig, *, on_step: Callable[[int], None] = lambda step: None) -> Rehearsal:
    """Tries a checkpoint and makes two steps of a run beside `config.out`, which is neither made nor changed.

    Where several processes run, all of them call this.

    Args:
        config: The run.
        on_step: Called with the number of each step when it is done.

    Raises:
        InputError: Whatever would have ended the run: see `grpo.train`.
    """
    if not is_remote(config.out):
        check_out_dir(config.out)
    hosts = together(_host)
    rows: list[dict[str, Any]] = []
    steps: list[Metrics] = []

    def stop(step: int, metrics: Metrics, table: list[dict[str, Any]]) -> None:
        rows.extend(table)
        steps.append(metrics)
        on_step(step)
        if step == _STEPS:
            raise _EnoughError

    held_out = config.evaluation
    # Opened as in the run, and never due.
    later = replace(held_out, every=sys.maxsize if held_out.every else 0)
    with passing_folder(f"{config.out}.dry-run") as folder:
        checkpoint = try_checkpoint(folder)
        rehearsed = replace(
            config,
            out=folder,
            evaluation=later,
            steps=max(config.steps, _STEPS + 1),
            profile_steps=None,
            wandb_project=None,
            checkpoint_every=sys.maxsize,
        )
        with contextlib.suppress(_EnoughError):
            train(rehearsed, callbacks=[stop])
    first, warm = steps[0]["seconds/step"], steps[-1]["seconds/step"]
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Rehearsal(
        hosts=hosts,
        checkpoint=checkpoint,
        row=rows[0],
        steps=steps,
        device_bytes=_device_bytes(),
        host_bytes=kibibytes if sys.platform == "darwin" else kibibytes * 1024,
        seconds=first + warm * (config.steps - 1),
    )


def _host() -> str:
    devices = jax.local_devices()
    versions = f"python {platform.python_version()}, jax {jax.__version__}"
    return f"{platform.node()}: {versions}, {len(devices)} x {devices[0].device_kind}"


def _device_bytes() -> list[tuple[int, int]] | None:
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    if not all({"peak_bytes_in_use", "bytes_limit"} <= stats.keys() for stats in told):
        return None
    return [(stats["peak_bytes_in_use"], stats["bytes_limit"]) for stats in told]
