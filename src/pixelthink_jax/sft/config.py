"""What a supervised run is made of. One YAML file, read by `config.load_config`."""

from dataclasses import dataclass, field
from typing import Literal

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl import LoraConfig, QwenVLConfig
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.runtime.mesh import MeshConfig
from pixelthink_jax.runtime.optim import OptimConfig


@dataclass(frozen=True)
class NewPolicyConfig:
    """A policy made from scratch: its size, its eyes and its vocabulary.

    Attributes:
        model: Architecture; vocabulary size and token ids are set from the tokenizer that is built.
        image_size: Side in pixels of the square that images are squashed to.
        prompt: Name of the prompt template.
        system_prompt: Text of the system message.
        max_vocab: Largest vocabulary.
        tokenizer_examples: How many training examples the vocabulary is counted on.
        number_digits: Most digits in one token; with more than one, the embeddings of numbers begin as smooth functions
            of their value (`numerals.py`).
        previous_token_layer: Decoder block some of whose heads begin by looking at the tokens just before
            (`positional_heads.py`); None leaves all heads to chance.
    """

    model: QwenVLConfig
    image_size: int
    prompt: str = "plain"
    system_prompt: str = "You are a helpful assistant."
    max_vocab: int = 1024
    tokenizer_examples: int = 2000
    number_digits: int = 1
    previous_token_layer: int | None = None

    def __post_init__(self) -> None:
        layer, layers = self.previous_token_layer, self.model.text.num_layers
        if layer is not None and not 0 <= layer < layers - 1:
            raise InputError(
                f"new_policy: previous_token_layer {layer} of {layers} layers; expected at most {layers - 2}"
            )


@dataclass(frozen=True)
class DataConfig(DatasetConfig):
    """Where examples come from: a dataset, whose rows need completions, and what of it is learned.

    Attributes:
        split: Split of the dataset; not read for `jsonl`.
        task: Of `shapereason`: `reason`; `listing`, which names every object with its place; `pointing`, which asks
            for objects in random order, each by words that fit it alone, and says these again with their boxes; or
            `finding`, which asks for one object and gives its box alone.
        chain_style: Of the reason task, every chain in this style; None draws it.
        level: Of the reason task, questions of that level only; None draws it.
        brief: Of the reason task, every row asks for brevity.
        most_objects: Of all tasks but `reason`, scenes of at most that many objects; None sets no limit.
        given_until: A phrase; what stands before it in a completion is given and bears no loss, so that all of the
            gradient goes into what follows. Completions without it are learned whole. None learns everything.
        weight: Share of rows, relative to the other datasets of the stage.
    """

    split: str = "train"
    task: Literal["reason", "listing", "pointing", "finding"] = "reason"
    chain_style: Literal["none", "short", "medium", "long"] | None = None
    level: Literal["easy", "medium", "hard"] | None = None
    brief: bool = False
    most_objects: int | None = None
    given_until: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_trainable()
        if not 0 < self.weight < float("inf"):
            raise InputError(f"data: weight must be positive, got {self.weight}")
        if self.given_until == "":
            raise InputError("data: given_until is empty; give a phrase, or leave it out")


@dataclass(frozen=True)
class StageConfig:
    """A part of the run on its own data; stages follow one another under one learning-rate schedule.

    Attributes:
        name: For whoever reads the config.
        steps: Updates.
        data: One dataset or several, mixed row by row.
    """

    name: str
    steps: int
    data: tuple[DataConfig, ...] = field(default_factory=lambda: (DataConfig(),))

    def __post_init__(self) -> None:
        _at_least_one(self, "steps")
        if not self.data:
            raise InputError(f"stage {self.name}: data names no dataset")


@dataclass(frozen=True)
class SftConfig:
    """A supervised run.

    Attributes:
        out: Run folder: log, checkpoints, and the trained policy in `policy/`.
        stages: What is learned, in order.
        policy: Folder of the policy to start from, or `pixelthink-tiny`; None with `new_policy`.
        new_policy: The policy to make from scratch; None with `policy`.
        optim: Optimizer and schedule.
        tokens_per_batch: Tokens of a batch, padding included, whatever the length of its rows, of which there are a
            multiple of `data` x `fsdp` on a mesh.
        length_buckets: Row lengths that are compiled; a row takes the smallest that holds it.
        chunk_rows: Rows that are sorted by length together.
        freeze_vision: Leave the vision tower as it is.
        lora: Train only an adapter of the text blocks, which `out/adapter` then holds as a PEFT folder; `out/policy`
            has it merged. None trains the parameters themselves.
        mesh: Chips along each axis, of all processes; None runs on one device.
        remat: What blocks keep for the backward pass; the rest is computed once more, which saves memory.
        unroll: Unroll the layer scan: faster for tiny models on CPU, slower to compile.
        dtype: Dtype of the parameters and of the computation; trained ones are exact in float32 whichever it is.
        export_dtype: Dtype of the exported policy.
        seed: Of initialisation and data order.
        log_every: Steps between log rows.
        checkpoint_every: Steps between checkpoints; a multiple of `log_every`, so that the log of a resumed
            run is that of an uninterrupted one, and no checkpoint holds a loss that was not looked at.
    """

    out: str
    stages: tuple[StageConfig, ...]
    policy: str | None = None
    new_policy: NewPolicyConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    tokens_per_batch: int = 8192
    length_buckets: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    chunk_rows: int = 1024
    freeze_vision: bool = False
    lora: LoraConfig | None = None
    mesh: MeshConfig | None = None
    remat: Remat = "none"
    unroll: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if (self.policy is None) == (self.new_policy is None):
            raise InputError("give exactly one of policy (a folder) and new_policy (an architecture)")
        if not self.stages:
            raise InputError("stages: at least one stage is needed")
        if not self.length_buckets or list(self.length_buckets) != sorted(
            {n for n in self.length_buckets if n > 0}
        ):
            raise InputError(f"length_buckets must be positive and increase, got {list(self.length_buckets)}")
        _at_least_one(self, "tokens_per_batch", "chunk_rows", "log_every", "checkpoint_every")
        if self.checkpoint_every % self.log_every:
            raise InputError(
                f"checkpoint_every {self.checkpoint_every} must be a multiple of log_every {self.log_every}"
            )

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage that makes the update after `step` updates, and the step that stage ends at."""
        end = 0
        for index, stage in enumerate(self.stages):
            end += stage.steps
            if step < end:
                return index, end
        return len(self.stages), end


def _at_least_one(config: object, *names: str) -> None:
    """Refuses numbers below 1; None is no number."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
