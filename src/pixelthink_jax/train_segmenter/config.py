"""What a segmenter run is made of. One YAML file, read by `config.load_config`."""

from dataclasses import dataclass, field
from typing import Literal

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.runtime.optim import OptimConfig


@dataclass(frozen=True)
class PromptConfig:
    """How prompts are drawn from the truth, so that the model meets what a policy will give it.

    Attributes:
        objects: Objects of a scene that are prompted, each by itself.
        box_share: Share of prompts with a box only.
        points_share: Share of prompts with points only; the rest have both.
        box_jitter: Standard deviation of each corner, as a share of the box's side.
        point_jitter: Standard deviation of each point, as a share of the box's side.
        exact_share: Share of prompts left as they are.
    """

    objects: int = 4
    box_share: float = 0.15
    points_share: float = 0.15
    box_jitter: float = 0.06
    point_jitter: float = 0.03
    exact_share: float = 0.5

    def __post_init__(self) -> None:
        if (
            self.objects < 1
            or self.box_share < 0
            or self.points_share < 0
            or self.box_share + self.points_share > 1
        ):
            raise InputError(
                "prompts: objects must be at least 1, box_share and points_share within 0 to 1 together"
            )


@dataclass(frozen=True)
class SegmenterConfig:
    """A segmenter run on ShapeReason.

    Attributes:
        out: Run folder: log, checkpoints, and the trained segmenter in `segmenter/`.
        steps: Updates.
        segmenter: Folder of the segmenter to start from; None with `model`.
        model: The shape of a segmenter to make from scratch; None with `segmenter`.
        optim: Optimizer and schedule.
        batch_images: Scenes in a batch.
        prompts: Prompts of each scene.
        split: Split of the world to train on.
        focal_gamma: Exponent of the focal loss; 0 is plain cross-entropy.
        focal_weight: Weight of the per-pixel loss.
        dice_weight: Weight of the dice loss.
        iou_weight: Weight of the squared error of the predicted IoUs.
        held_out_scenes: Scenes of the validation split that the trained segmenter is measured on; 0 for none.
        export_dtype: Dtype of the exported segmenter.
        seed: Of initialisation and prompts.
        log_every: Steps between log rows.
        checkpoint_every: Steps between checkpoints.
    """

    out: str
    steps: int
    segmenter: str | None = None
    model: Sam2Config | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_images: int = 8
    prompts: PromptConfig = field(default_factory=PromptConfig)
    split: str = "train"
    focal_gamma: float = 0.0
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    held_out_scenes: int = 500
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if (self.segmenter is None) == (self.model is None):
            raise InputError("give exactly one of segmenter (a folder) and model (an architecture)")
        if self.steps < 1 or self.batch_images < 1:
            raise InputError(
                f"steps and batch_images must be at least 1, got {self.steps} and {self.batch_images}"
            )
