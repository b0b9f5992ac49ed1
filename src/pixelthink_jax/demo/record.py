"""What a demonstration found."""

from dataclasses import dataclass
from pathlib import Path

from pixelthink_jax.evaluation.comparison import Change
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.runtime.meter import Metrics
from pixelthink_jax.types import Example, Segmentation


@dataclass(frozen=True)
class Shown:
    """A pictured question with its answers before and after the training."""

    example: Example
    before: Segmentation
    after: Segmentation


@dataclass(frozen=True)
class Demo:
    """What a demonstration found.

    Attributes:
        out: Its folder.
        before: One row for each scene, of the policy as it came.
        after: Of the trained policy, same scenes in the same order.
        changes: By level and measure.
        history: Metrics of every training step.
        shown: The pictured questions; the large one last.
        seconds: Time by stage.
    """

    out: Path
    before: list[Row]
    after: list[Row]
    changes: dict[str, dict[str, Change]]
    history: list[Metrics]
    shown: tuple[Shown, ...]
    seconds: dict[str, float]

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / "report.html"

    @property
    def photograph(self) -> Path:
        """The large picture, for questions of one's own."""
        return self.out / "photograph.png"
