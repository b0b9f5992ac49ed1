"""The segmenter run: scenes in, trained Hugging Face folder out; resumable at every checkpoint."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.config import to_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.sam2 import checkpoint
from pixelthink_jax.models.sam2.model import init_params
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.run_log import RunLog
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.train_segmenter.batches import scene_batches
from pixelthink_jax.train_segmenter.config import SegmenterConfig
from pixelthink_jax.train_segmenter.evaluate import evaluate_segmenter
from pixelthink_jax.train_segmenter.loss import TrainState, make_train_step

Metrics = dict[str, float]


def run_train_segmenter(
    config: SegmenterConfig, *, on_log: Callable[[int, Metrics], None] | None = None
) -> tuple[Segmenter, Metrics]:
    """Trains to `config.steps`, continuing from the newest checkpoint in `config.out` if there is one.

    Args:
        config: The run.
        on_log: Called with (step, metrics) at each log row, for progress bars.

    Returns:
        The trained segmenter, also exported to `config.out/segmenter`, and its held-out numbers, also written to
        `config.out/held_out.json`; both as exported, so in `config.export_dtype`.

    Raises:
        InputError: A setting or the segmenter folder cannot be used, or the loss stopped being finite.
    """
    if config.segmenter:
        model, params = checkpoint.load(config.segmenter)
    else:
        assert config.model is not None  # the config holds one of the two
        model = config.model
        params = init_params(model, jax.random.key(config.seed))
    optimizer = make_optimizer(config.optim, config.steps)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    checkpoints = Checkpoints(config.out, every=config.checkpoint_every)
    step = 0
    if checkpoints.latest_step() is not None:
        step, state, _ = checkpoints.restore(state)
    log = RunLog(config.out, resume_step=step)
    train_step = make_train_step(model, config, optimizer)
    pending, since = [], time.perf_counter()
    batches = scene_batches(config, model.image_size, step)
    while step < config.steps:
        state, metrics = train_step(state, next(batches))
        pending.append(metrics)
        step += 1
        if step % config.log_every == 0:
            row, now = _mean_row(pending), time.perf_counter()
            row["seconds_per_step"] = (now - since) / len(pending)
            pending, since = [], now
            _check_finite(step, row)
            log.write(step, row)
            if on_log:
                on_log(step, row)
        checkpoints.save(step, state, {"config": to_tree(config)}, force=step == config.steps)
    batches.close()
    checkpoints.close()
    log.close()
    return _export(config, Segmenter(state.params, model))


def _mean_row(pending: list[dict[str, jax.Array]]) -> Metrics:
    """Averages of the steps since the last row; the device is read only here, so steps are dispatched ahead."""
    rows = jax.device_get(pending)
    return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


def _check_finite(step: int, row: Metrics) -> None:
    if not np.isfinite(row["loss"]):
        raise InputError(f"step {step}: the loss is {row['loss']}; lower optim.learning_rate")


def _export(config: SegmenterConfig, trained: Segmenter) -> tuple[Segmenter, Metrics]:
    """Writes the model and measures it as written."""
    folder = Path(config.out) / "segmenter"
    checkpoint.save(folder, trained.params, trained.config, dtype=jnp.dtype(config.export_dtype))
    exported = Segmenter.from_pretrained(folder)
    held_out = evaluate_segmenter(exported, scenes=config.held_out_scenes) if config.held_out_scenes else {}
    (Path(config.out) / "held_out.json").write_text(json.dumps(held_out, indent=2) + "\n", encoding="utf-8")
    return exported, held_out
