"""What a GRPO run is made of. One YAML file, read by `config.load_config`."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from pixelthink_jax.config import from_tree, laid_over, to_tree
from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.models.qwen_vl import LoraConfig
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.processing.policy_format import FormatName
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardConfig
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.rl.step import StepConfig
from pixelthink_jax.runtime.mesh import MeshConfig, rollout_config
from pixelthink_jax.runtime.optim import OptimConfig


@dataclass(frozen=True)
class DifficultyConfig:
    """Where the difficulty of a question comes from, 1 to 10.

    Attributes:
        source: `column`: the dataset's own; `file`: scores by example id; `self`: estimated by the policy from the
            success rate of its own group, no scorer needed.
        path: Of `file`: JSON, either `{id: score}` or the released list of records with `image_id` (or `id`) and
            `difficulty_score_model` (or `difficulty`); of two records with one id the later counts. A `.jsonl` file
            holds a record a line, as `pixelthink annotate` writes them.
        missing: A score that is absent, not a number or outside 1 to 10: `error` stops, `skip` leaves the row out and
            counts it, `released` takes 3.0, the easy branch, as the released code does, and counts it.
        shuffled_share: Share of each step's questions whose scores are exchanged among them: label noise for ablations.
    """

    source: Literal["column", "file", "self"] = "column"
    path: str | None = None
    missing: Literal["error", "skip", "released"] = "error"
    shuffled_share: float = 0.0

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.path is not None):
            raise InputError(
                f"difficulty: source {self.source} with path {self.path}; a path goes with source file"
            )
        if not 0 <= self.shuffled_share <= 1:
            raise InputError(f"difficulty: shuffled_share must be in [0, 1], got {self.shuffled_share}")


@dataclass(frozen=True)
class CustomRewardConfig:
    """A reward of one's own, added to the accuracy that the length score multiplies.

    Attributes:
        function: `package.module:name`.
        kind: `host`: called with (groups of completion texts, examples), returns numbers `[prompts, group]`; `arrays`:
            a pure function of `rl.rewards.RewardInputs`, which is jitted; `mask_iou`: no function, the IoU of the mask
            that the segmenter draws for the answer.
        weight: Factor.
    """

    function: str = ""
    kind: Literal["host", "arrays", "mask_iou"] = "host"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind != "mask_iou" and self.function.count(":") != 1:
            raise InputError(f"custom reward {self.function!r}: expected package.module:function")
        if not math.isfinite(self.weight):
            raise InputError(f"custom reward {self.function}: weight must be finite, got {self.weight}")

    @property
    def name(self) -> str:
        """What the log calls it.

        >>> CustomRewardConfig("mine.rewards:brevity").name
        'brevity'
        """
        return self.kind if self.kind == "mask_iou" else self.function.rpartition(":")[2]


@dataclass(frozen=True)
class HeldOutConfig:
    """The periodic evaluation.

    Attributes:
        data: The questions; never those that are trained on.
        every: Steps between evaluations; the last step always ends with one. 0 makes none.
        generation: How the policy is asked.
        segmenter: Folder or name; None scores boxes only.
    """

    data: DatasetConfig = field(default_factory=lambda: DatasetConfig(split="validation", examples=100))
    every: int = 0
    generation: Generation = field(default_factory=Generation)
    segmenter: str | None = "sam2-tiny-shapes"

    def __post_init__(self) -> None:
        if self.every < 0:
            raise InputError(f"evaluation: every must not be negative, got {self.every}")


@dataclass(frozen=True)
class TrainConfig:
    """A GRPO run.

    Attributes:
        out: Run folder: logs, checkpoints, and the trained policy in `policy/`.
        policy: A policy folder, or the name of one that travels with the package; also the reference.
        format: How the policy is asked and answers, which what is exported keeps; None leaves that to its folder.
        data: The questions.
        bad_rows: A row that cannot be read or has no solution: `stop`, or `skip` and count it.
        difficulty: Where difficulty comes from.
        reward: What a completion is paid for.
        custom_rewards: Further rewards, each weighed, logged and added to the accuracy.
        loss: What is minimised.
        sampling: How completions are drawn.
        optim: Optimizer and schedule.
        steps: Updates; one follows each rollout.
        prompts_per_step: Questions of a step.
        group_size: Completions of each.
        more_rollouts: Dynamic sampling (DAPO): questions whose completions are all paid alike are replaced by others,
            from at most so many more rollouts a step. 0 keeps every question.
        micro_batches: Parts the questions of a step are cut into, to save memory.
        freeze_vision: Leave the vision tower as it is.
        lora: Train only an adapter of the text blocks, which `out/adapter` then holds as a PEFT folder; `out/policy`
            has it merged. The model without it is the reference. None trains the parameters themselves.
        mesh: Chips along each axis, of all processes; None runs on one device.
        rollout_mesh: The same for decoding, `fsdp` left out; None takes the `tensor` of `mesh` and every other chip for
            `data`.
        machines: Settings by the name of a machine (`plan.parse_topology`), which `on` lays over the others: mesh, and
            what its memory asks for.
        gradient_dtype: What the gradients of micro-batches are added up in (`rl.step.StepConfig`).
        reference_memory: Where the reference waits between its passes; `host` frees two bytes a parameter of the device
            during rollout and update. Only where all parameters are trained: others it shares with the policy.
        remat: What blocks keep for the backward pass; the rest is computed once more, which saves memory.
        unroll: Unroll the layer scan: faster for tiny models on CPU, slower to compile.
        dtype: Dtype of the parameters and of the computation; trained ones are exact in float32 whichever it is
            (`runtime.halves`).
        export_dtype: Dtype of the exported policy. Rounding to bfloat16 takes back what a short run with a small rate
            has changed by less than that; `pixelthink convert` makes either of a checkpoint.
        evaluation: The periodic evaluation.
        instruction: Sentence added to every prompt; None adds none.
        seed: Of data order and sampling.
        samples_every: Steps between the steps whose completions are logged as text.
        checkpoint_every: Steps between checkpoints.
        profile_steps: First and last step of a trace for TensorBoard; None makes none.
        wandb_project: Project on Weights & Biases that metrics go to as well; needs the extra `wandb`.
    """

    out: str
    policy: str = "pixelthink-tiny"
    format: FormatName | None = None
    data: DatasetConfig = field(default_factory=lambda: DatasetConfig(split="train"))
    bad_rows: Literal["stop", "skip"] = "stop"
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    custom_rewards: tuple[CustomRewardConfig, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_new_tokens=1300))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-6, weight_decay=0.01))
    steps: int = 562
    prompts_per_step: int = 16
    group_size: int = 8
    more_rollouts: int = 0
    micro_batches: int = 1
    freeze_vision: bool = False
    lora: LoraConfig | None = None
    mesh: MeshConfig | None = None
    rollout_mesh: MeshConfig | None = None
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    reference_memory: Literal["device", "host"] = "device"
    remat: Remat = "none"
    unroll: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    instruction: str | None = None
    seed: int = 42
    samples_every: int = 10
    checkpoint_every: int = 50
    profile_steps: tuple[int, int] | None = None
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "prompts_per_step",
            "group_size",
            "micro_batches",
            "samples_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.more_rollouts < 0:
            raise InputError(f"more_rollouts must not be negative, got {self.more_rollouts}")
        if self.prompts_per_step % self.micro_batches:
            raise InputError(
                f"micro_batches {self.micro_batches} must divide prompts_per_step {self.prompts_per_step}"
            )
        if self.sampling.temperature == 0:
            raise InputError(
                "sampling: temperature 0 draws a group of equal completions; training needs it positive"
            )
        if self.profile_steps is not None and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise InputError(
                f"profile_steps: got {list(self.profile_steps)}, expected [first, last] from 1 on"
            )
        if self.rollout_mesh is not None:
            if self.mesh is None:
                raise InputError("rollout_mesh: there is no mesh beside it; give both, or neither")
            rollout_config(self.mesh, self.rollout_mesh)
        if self.reference_memory == "host" and (self.lora is not None or self.freeze_vision):
            raise InputError(
                "reference_memory host: the reference shares what is not trained with the policy; use device with lora "
                "or freeze_vision"
            )
        self._check_budget()
        self._check_splits()
        for machine in self.machines:
            self.on(machine)

    def _check_budget(self) -> None:
        """A budget that no completion can exceed would leave the length reward without effect, in silence."""
        constrains = self.reward.penalty.kind in (
            "clipped",
            "one_sided",
            "l1_exact",
            "l1_max",
            "dapo_overlong",
        )
        if constrains and self.reward.budget.largest > self.sampling.max_new_tokens:
            raise InputError(
                f"reward: the largest budget {self.reward.budget.largest:g} exceeds sampling.max_new_tokens "
                f"{self.sampling.max_new_tokens}, so no completion could pass it; lower the budget or allow more tokens"
            )

    def _check_splits(self) -> None:
        train, held_out = self.data, self.evaluation.data
        train.check_trainable()
        if self.evaluation.every and (train.name, train.split, train.path) == (
            held_out.name,
            held_out.split,
            held_out.path,
        ):
            raise InputError(
                f"evaluation: data is the training data ({train.name}, {train.split}); hold out other rows"
            )

    def on(self, machine: str) -> "TrainConfig":
        """The run on one of its machines.

        Raises:
            InputError: There is none of that name, or its settings cannot be used.
        """
        if machine not in self.machines:
            known = ", ".join(self.machines) or "none"
            raise InputError(
                f"machine {machine}: the config has settings for {known}; add them under machines"
            )
        tree = laid_over({**to_tree(self), "machines": {}}, self.machines[machine])
        return from_tree(TrainConfig, tree, where=f"machines: {machine}")

    @property
    def trains_vision(self) -> bool:
        """Whether the vision tower changes."""
        return not self.freeze_vision and self.lora is None

    @property
    def draws_masks(self) -> bool:
        """Whether the run has a segmenter and a use for it: evaluations or a reward."""
        rewarded = any(custom.kind == "mask_iou" for custom in self.custom_rewards)
        return self.evaluation.segmenter is not None and (self.evaluation.every > 0 or rewarded)

    @property
    def step_config(self) -> StepConfig:
        """The part that the jitted update is made from."""
        return StepConfig(
            reward=self.reward,
            loss=self.loss,
            micro_batches=self.micro_batches,
            temperature=self.sampling.temperature,
            freeze_vision=not self.trains_vision,
            remat=self.remat,
            unroll=self.unroll,
            gradient_dtype=self.gradient_dtype,
        )
