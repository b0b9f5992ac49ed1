"""The segmenter run: scenes in, trained Hugging Face folder out; resumable at every checkpoint."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.config import to_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.sam2 import checkpoint
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import Params, init_params
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.compiled_programs import keep_compiled_programs
from pixelthink_jax.runtime.interrupts import stop_requests
from pixelthink_jax.runtime.meter import Meter, Metrics
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.remote import mirrored, on_this_machine
from pixelthink_jax.runtime.run_log import RunLog
from pixelthink_jax.runtime.train_state import TrainState
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.train_segmenter.batches import scene_batches
from pixelthink_jax.train_segmenter.config import SegmenterConfig
from pixelthink_jax.train_segmenter.evaluate import evaluate_segmenter
from pixelthink_jax.train_segmenter.loss import make_train_step


@dataclass(frozen=True)
class SegmenterRun:
    """What came of a run.

    Attributes:
        segmenter: As it was exported, so in `config.export_dtype`.
        held_out: Its numbers on held-out scenes; empty where none are asked for or the run was interrupted.
        steps: Updates so far; fewer than `config.steps` where it was interrupted.
    """

    segmenter: Segmenter
    held_out: Metrics
    steps: int


def run_train_segmenter(
    config: SegmenterConfig, *, on_log: Callable[[int, Metrics], None] | None = None
) -> SegmenterRun:
    """Trains to `config.steps`, continuing from the newest checkpoint in `config.out` if there is one.

    An interrupt (Ctrl-C, SIGTERM) ends the run after the step under way, with a checkpoint.

    Args:
        config: The run.
        on_log: Called with (step, metrics) at each log row, for progress bars.

    Returns:
        The trained segmenter, also exported to `config.out/segmenter`, and its held-out numbers, also written to
        `config.out/held_out.json`.

    Raises:
        InputError: A setting or the segmenter folder cannot be used, or the loss stopped being finite.
    """
    keep_compiled_programs()
    if config.segmenter:
        model, params = checkpoint.load(on_this_machine(config.segmenter))
    else:
        assert config.model is not None  # the config holds one of the two
        model = config.model
        params = init_params(model, jax.random.key(config.seed))
    with mirrored(config.out) as files:
        with closing(Checkpoints(config.out, every=config.checkpoint_every)) as checkpoints:
            params, steps = _train(params, model, config, files, checkpoints, on_log)
        exported = _export(config, files, Segmenter(params, model))
        held_out = _measure(config, files, exported) if steps == config.steps else {}
        return SegmenterRun(exported, held_out, steps)


def _train(
    params: Params,
    model: Sam2Config,
    config: SegmenterConfig,
    files: Path,
    checkpoints: Checkpoints,
    on_log: Callable[[int, Metrics], None] | None,
) -> tuple[Params, int]:
    """The loop of `run_train_segmenter`: the parameters at its end, and the steps until then."""
    optimizer = make_optimizer(config.optim, config.steps)
    state, step = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32)), 0
    if checkpoints.latest_step() is not None:
        step, state, _ = checkpoints.restore(state)
    train_step = make_train_step(model, config, optimizer)
    meter = Meter(config.log_every, last=config.steps)
    batches = scene_batches(config, model.image_size, step)
    with closing(RunLog(files, resume_step=step)) as log, closing(batches), stop_requests() as stopping:
        stop = False
        while step < config.steps and not stop:
            step += 1
            state, metrics = train_step(state, next(batches))
            row = meter.update(step, metrics)
            if row:
                _check_finite(step, row)
                log.write(step, row)
                if on_log:
                    on_log(step, row)
            stop = stopping.is_set()
            checkpoints.save(step, state, {"config": to_tree(config)}, force=step == config.steps or stop)
    return state.params, step


def _check_finite(step: int, row: Metrics) -> None:
    if not np.isfinite(row["loss"]):
        raise InputError(f"step {step}: the loss is {row['loss']}; lower optim.learning_rate")


def _export(config: SegmenterConfig, files: Path, trained: Segmenter) -> Segmenter:
    """Writes the model and reads it again."""
    folder = files / "segmenter"
    checkpoint.save(folder, trained.params, trained.config, dtype=jnp.dtype(config.export_dtype))
    return Segmenter.from_pretrained(folder)


def _measure(config: SegmenterConfig, files: Path, exported: Segmenter) -> Metrics:
    """Writes the numbers of the model on held-out scenes."""
    held_out = evaluate_segmenter(exported, scenes=config.held_out_scenes) if config.held_out_scenes else {}
    (files / "held_out.json").write_text(json.dumps(held_out, indent=2) + "\n", encoding="utf-8")
    return held_out
