"""What an evaluation is made of. One YAML file, read by `config.load_config`."""

from dataclasses import dataclass, field
from typing import Literal

from pixelthink_jax.data.config import REPORTING_SPLITS, DatasetConfig
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.published import PublishedKey
from pixelthink_jax.judge.config import EndpointConfig, LocalConfig
from pixelthink_jax.processing.policy_format import FormatName
from pixelthink_jax.runtime.mesh import MeshConfig

Style = Literal["free", "none", "short", "medium", "long"]
ProtocolName = Literal[
    "pixelthink", "seg_zero", "seg_zero_multi", "vision_reasoner", "lisa", "lens", "gres", "zero_shot"
]
Role = Literal["tune", "report"]


@dataclass(frozen=True)
class Generation:
    """How the policy is asked; decoding is greedy.

    Attributes:
        max_new_tokens: Longest completion.
        batch_size: Questions decoded together.
        batches_in_flight: Batches whose questions are read at once, sorted by expected length and refilled from each
            other; more keep decoding busier and cost memory for their images and prompts.
        completion_prefix: Text every completion must begin with.
        instruction: Sentence added to every prompt; None leaves each example its own.
        max_thinking_tokens: Tokens after which a thought is closed; None sets no limit.
    """

    max_new_tokens: int = 512
    batch_size: int = 32
    batches_in_flight: int = 4
    completion_prefix: str = ""
    instruction: str | None = None
    max_thinking_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "batches_in_flight"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RScoreConfig:
    """A model that judges thoughts against reference chains; the form it fills in is ours (`judge.prompts`).

    Attributes:
        backend: Who judges.
        reference: Which reference: the `long` or the `short` chain of the annotations; examples without annotations
            have the thought of their own completion, where there is one.
        attempts: Times that a form is asked for until its answer can be used.
        max_tokens: Longest answer; a model that reasons before it answers needs more.
        cache: Folder of replies, which runs may share; None takes one in the folder of the evaluation.
    """

    backend: EndpointConfig | LocalConfig = field(default_factory=EndpointConfig)
    reference: Literal["long", "short"] = "long"
    attempts: int = 3
    max_tokens: int = 1024
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"rscore.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation: the same questions once for each chain style.

    Attributes:
        out: Folder for the rows, the summary and the table.
        policy: A policy folder, or the name of one that travels with the package.
        format: How the policy is asked and read; None leaves that to its folder. `qwen_vl` is for untuned Qwen2.5-VL.
        segmenter: A segmenter folder, or the name of one that travels with it; None scores boxes only.
        data: The questions.
        styles: `free` lets the policy think as it likes; the others force the first words of the shape world's
            chains of that style, and with them the length.
        generation: How the policy is asked; `completion_prefix` counts for `free` only.
        protocol: How answers are read and scored, see `evaluation.protocols`.
        bad_rows: `stop` ends the run at an example that cannot be evaluated; `count` goes on and lists it.
        judge: `shapereason` compares the thoughts with the scene they are about, exactly and without a model.
        rscore: A model that judges the thoughts; None asks none.
        size_billions: Parameters of the policy in billions, as the cost measures weigh them; None counts them.
        role: What the questions are for: `tune` chooses settings, `report` reports them. None takes `report`, and
            `tune` for the splits of the shape world that are not reported on.
        chosen_on: The split that chose the settings of the policy, named in the report; None says none is known.
        published: Key of the published numbers to set beside, see `evaluation.published`; None sets none.
        dtype: Dtype of the policy's parameters and computation.
        mesh: Chips along each axis, of all processes: batches are divided over `data` and `fsdp`. None runs on one
            device.
        seed: Of the bootstrap.
    """

    out: str = "runs/evaluation"
    policy: str = "pixelthink-tiny"
    format: FormatName | None = None
    segmenter: str | None = "sam2-tiny-shapes"
    data: DatasetConfig = field(default_factory=DatasetConfig)
    styles: tuple[Style, ...] = ("free",)
    generation: Generation = field(default_factory=Generation)
    protocol: ProtocolName = "pixelthink"
    bad_rows: Literal["stop", "count"] = "stop"
    judge: Literal["shapereason"] | None = None
    rscore: RScoreConfig | None = None
    size_billions: float | None = None
    role: Role | None = None
    chosen_on: str | None = None
    published: PublishedKey | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig | None = None
    seed: int = 0

    @property
    def split_role(self) -> Role:
        """What the questions are for, as given or by their split."""
        tunes = self.data.name == "shapereason" and self.data.split not in REPORTING_SPLITS
        return self.role or ("tune" if tunes else "report")

    def __post_init__(self) -> None:
        if self.judge is not None and self.rscore is not None:
            raise InputError("judge and rscore: both would judge the thoughts; give one")
        if self.chosen_on is not None and self.chosen_on == self.data.split and self.split_role == "report":
            raise InputError(
                f"chosen_on: the settings were chosen on {self.chosen_on}, which is what this run reports; report on "
                "another split, or set role: tune"
            )
        if self.size_billions is not None and self.size_billions <= 0:
            raise InputError(f"size_billions must be positive, got {self.size_billions}")
        if not self.styles or len(set(self.styles)) != len(self.styles):
            raise InputError(f"styles must name each style once and at least one, got {list(self.styles)}")
