"""The supervised run: policy and data in, trained policy folder out; resumable at every checkpoint."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import example_stream
from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.rl.placement import place_rows
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.compiled_programs import keep_compiled_programs
from pixelthink_jax.runtime.hosts import any_of, is_first
from pixelthink_jax.runtime.interrupts import stop_requests
from pixelthink_jax.runtime.mesh import in_use, one_mesh
from pixelthink_jax.runtime.meter import Meter, Metrics
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.recompilation import CompileWatch
from pixelthink_jax.runtime.remote import mirrored
from pixelthink_jax.runtime.run_log import RunLog
from pixelthink_jax.runtime.train_state import TrainState, begin
from pixelthink_jax.segmentation.loading import model_folder
from pixelthink_jax.sft.batches import Batch, BatchStream, Position, Row, cut_batches
from pixelthink_jax.sft.config import DataConfig, SftConfig
from pixelthink_jax.sft.data import open_data
from pixelthink_jax.sft.new_policy import new_policy
from pixelthink_jax.sft.step import DeviceBatch, make_train_step
from pixelthink_jax.types import Example


@dataclass(frozen=True)
class SftRun:
    """What came of a run.

    Attributes:
        policy: As it is after the last step.
        steps: Updates so far; fewer than `config.steps` where it was interrupted.
    """

    policy: Policy
    steps: int


def run_sft(config: SftConfig, *, on_log: Callable[[int, Metrics], None] | None = None) -> SftRun:
    """Trains to the last stage's end, continuing from the newest checkpoint in `config.out` if there is one.

    An interrupt (Ctrl-C, SIGTERM) ends the run after the step under way, with a checkpoint. Where several processes
    run, all of them call this: each reads all rows and gives its devices theirs, one that is interrupted ends all after
    the same log row, and files are written by the first.

    Args:
        config: The run.
        on_log: Called with (step, metrics) at each log row, for progress bars.

    Returns:
        The trained policy, also exported to `config.out/policy`, and how far it came.

    Raises:
        InputError: A setting, the policy folder or a data row cannot be used, or the loss stopped being
            finite.
    """
    with mirrored(config.out) as files:
        return _run(config, files, on_log)


def _run(config: SftConfig, out: Path, on_log: Callable[[int, Metrics], None] | None) -> SftRun:
    """The run, whose files but checkpoints go to `out`."""
    keep_compiled_programs()
    if config.new_policy is not None and jax.process_count() > 1:
        raise InputError(
            f"new_policy: {jax.process_count()} processes would each count a vocabulary; make it in one process, then "
            "name its folder under policy"
        )
    mesh = one_mesh(config.mesh)
    if config.policy:
        policy = Policy.from_pretrained(model_folder(config.policy), dtype=config.dtype, mesh=mesh)
    else:
        policy = new_policy(config, tokenizer_folder=out / "tokenizer", mesh=mesh)
    begun, frozen = qwen_vl.trained_and_frozen(
        policy.params,
        policy.config,
        freeze_vision=config.freeze_vision,
        lora=config.lora,
        key=jax.random.key(config.seed),
    )
    with closing(Checkpoints(config.out, every=config.checkpoint_every)) as checkpoints:
        state, steps = _train(policy, begun, frozen, config, out, checkpoints, on_log)
    trained = policy.with_params(qwen_vl.whole_params(state.params, frozen))
    trained.export(out / "policy", dtype=config.export_dtype)
    if config.lora is not None:
        trained.export_adapter(out / "adapter", config.lora)
    return SftRun(trained, steps)


def _train(
    policy: Policy,
    begun: Any,
    frozen: Any,
    config: SftConfig,
    out: Path,
    checkpoints: Checkpoints,
    on_log: Callable[[int, Metrics], None] | None,
) -> tuple[TrainState, int]:
    """The loop of `run_sft`: the state at its end, and the steps until then."""
    optimizer, mesh = make_optimizer(config.optim, config.steps), policy.mesh

    def places(tree: Any) -> Any:
        return None if mesh is None else qwen_vl.tree_shardings(tree, mesh, policy.config)

    state = begin(begun, optimizer, shardings=places)
    step, start = 0, None
    if checkpoints.latest_step() is not None:
        step, state, extra = checkpoints.restore(state)
        start = Position(**extra["position"]) if extra["position"] else None
    train_step = make_train_step(
        policy.config,
        policy.processor.image_config,
        optimizer,
        remat=config.remat,
        unroll=config.unroll,
    )
    meter, compiling = Meter(config.log_every, last=config.steps), CompileWatch()
    with ExitStack() as stack:
        log = stack.enter_context(closing(RunLog(out, resume_step=step))) if is_first() else None
        stopping = stack.enter_context(stop_requests())
        parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        batches = stage_batches(config, policy.processor, step, start, parts=parts)
        for step, stage, batch, position in batches:
            arrays = to_device(batch, policy)
            with in_use(mesh), compiling("update", step, arrays):
                state, metrics = train_step(state, frozen, arrays)
            row = meter.update(step, metrics)
            if row:
                if not np.isfinite(row["loss"]):
                    raise InputError(f"step {step}: the loss is {row['loss']}; lower optim.learning_rate")
                if log:
                    log.write(step, {"stage": float(stage), **row})
                if on_log:
                    on_log(step, row)
            extra = {
                "position": dataclasses.asdict(position) if position else None,
                "config": to_tree(config),
            }
            # Several processes agree on it where a row makes them wait for their devices anyway.
            stop = (row is not None or jax.process_count() == 1) and any_of(stopping.is_set())
            checkpoints.save(step, state, extra, force=step == config.steps or stop)
            if stop:
                break
    return state, step


def stage_batches(
    config: SftConfig, processor: Processor, step: int, position: Position | None, *, parts: int = 1
) -> Iterator[tuple[int, int, Batch, Position | None]]:
    """Yields (step after the update, stage index, batch, where to resume) to the end of the run; `parts` as below."""
    while step < config.steps:
        index, end = config.stage_at(step)
        data = config.stages[index].data
        with closing(open_stream(data, config, processor, position, parts=parts)) as stream:
            for batch, after in stream:
                step += 1
                yield step, index, batch, after if step < end else None
                if step == end:
                    break
        position = None


def open_stream(
    data: tuple[DataConfig, ...],
    config: SftConfig,
    processor: Processor,
    position: Position | None,
    *,
    parts: int = 1,
) -> BatchStream:
    """Endless batches of a stage's data, from `position` on, in which a multiple of `parts` rows stand."""
    stream = example_stream(open_data(data, _square(processor)), seed=config.seed, shuffle=True)
    rows = RowStream(stream, processor)

    def cut(chunk: list[Row], rng: np.random.Generator) -> list[Batch]:
        return cut_batches(
            chunk,
            buckets=config.length_buckets,
            tokens_per_batch=config.tokens_per_batch,
            pad_id=processor.tokenizer.special.pad,
            rng=rng,
            parts=parts,
        )

    return BatchStream(rows, cut, chunk_rows=config.chunk_rows, seed=config.seed, start=position)


class RowStream:
    """Tokenised rows of an example stream; its state is that of the stream."""

    def __init__(self, examples: Any, processor: Processor):
        """`examples` iterates over `Example` and has `get_state` and `set_state`."""
        self._examples, self._processor = examples, processor
        self.get_state, self.set_state = examples.get_state, examples.set_state

    def __iter__(self) -> Iterator[Row]:
        """Encodes examples as they are asked for."""
        return (encode_example(example, self._processor) for [example] in self._examples)


def encode_example(example: Example, processor: Processor) -> Row:
    """One example as a training row: prompt, completion, end of turn.

    Raises:
        InputError: The example has no completion to learn from.
    """
    if not example.completion:
        raise InputError(
            f"example {example.id}: it has no completion; supervised training needs one in every row"
        )
    prompt = processor.prompt(example.image, example.query, instruction=example.instruction)
    end = np.array([processor.tokenizer.special.end_of_turn], np.int32)
    completion = processor.tokenizer.encode(example.completion)
    ids = np.concatenate([prompt.input_ids, completion, end]).astype(np.int32)
    begun = processor.tokenizer.encode(example.given)
    # A token that reaches beyond the given text is learned.
    given = next((i for i, (a, b) in enumerate(zip(begun, completion, strict=False)) if a != b), len(begun))
    return Row(ids, len(prompt.input_ids) + given, prompt.image, prompt.grid_thw)


def to_device(batch: Batch, policy: Policy) -> DeviceBatch:
    """Adds positions and the vision layout, and puts the batch where the policy is."""
    grids = np.tile(np.array(batch.grid_thw, np.int32), (len(batch.images), 1))
    positions = qwen_vl.position_ids(batch.input_ids, batch.mask, grids, policy.config)
    layout = qwen_vl.vision_layout(grids, policy.config.vision)
    arrays = DeviceBatch(batch.input_ids, batch.mask, batch.loss_mask, positions, batch.images, layout)
    return jax.device_put(arrays) if policy.mesh is None else place_rows(arrays, policy.mesh)


def _square(processor: Processor) -> tuple[int, int] | None:
    """The size at which a synthetic scene may be rendered because the policy squashes to it anyway."""
    size = processor.format.resize.size
    return (size, size) if processor.format.resize.kind == "square" and size else None
