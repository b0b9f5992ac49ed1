"""What a sweep is made of. One YAML file, read by `config.load_config`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pixelthink_jax.config import from_tree, laid_over, read_tree
from pixelthink_jax.data.config import REPORTING_SPLITS, DatasetConfig
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.grpo.config import TrainConfig


@dataclass(frozen=True)
class ArmConfig:
    """One way to do it.

    Attributes:
        about: A line for whoever reads the table.
        settings: Laid over the sweep's base config, nested as it is.
        choices: Further settings of which one is taken: each is trained with the first seed and judged on the tuning
            split. None is chosen where there are none.
        train: False asks the policy as it came, once; seeds then make no difference.
        generation: Laid over the sweep's generation.
    """

    about: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    choices: tuple[dict[str, Any], ...] = ()
    train: bool = True
    generation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.train and (self.settings or self.choices):
            raise InputError(
                "an arm that does not train has no settings and no choices of a training; remove them"
            )


@dataclass(frozen=True)
class SweepConfig:
    """Several arms under the same conditions.

    Attributes:
        out: Folder of the runs and the table; what is in it is not made again.
        base: YAML file of the training that arms change; its `out` and `seed` are the sweep's.
        arms: By name.
        settings: Laid over the base for every arm.
        seeds: Of every arm that trains.
        tune: The questions that choices are made on.
        report: The questions that are reported, by the name they have in the table.
        generation: How policies are asked.
        segmenter: Folder or name.
        allowed_loss: A choice may cost at most this much gIoU on the tuning questions, against the policy as it came.
    """

    out: str
    base: str
    arms: dict[str, ArmConfig]
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    tune: DatasetConfig = field(default_factory=lambda: DatasetConfig(split="tuning", examples=200))
    report: dict[str, DatasetConfig] = field(
        default_factory=lambda: {"test": DatasetConfig(split="test"), "ood": DatasetConfig(split="ood")}
    )
    generation: Generation = field(default_factory=Generation)
    segmenter: str = "sam2-tiny-shapes"
    allowed_loss: float = 0.02

    def __post_init__(self) -> None:
        if not self.arms or not self.seeds or not self.report:
            raise InputError("a sweep needs at least one arm, one seed and one set of questions to report")
        if self.tune.name == "shapereason" and self.tune.split in REPORTING_SPLITS:
            raise InputError(f"tune: split {self.tune.split} only reports; choose on another, such as tuning")
        for name, data in self.report.items():
            if _same(data, self.tune):
                raise InputError(
                    f"report.{name} is the tuning data; what is chosen on it cannot be reported on it"
                )
        for name in self.arms:
            for number in range(len(self.arms[name].choices) or 1):
                settings = self.training(name, number, self.seeds[0])
                for reported, data in self.report.items():
                    if _same(settings.data, data):
                        raise InputError(f"arm {name}: trains on report.{reported}; train on other rows")

    def only(self, arms: Sequence[str]) -> "SweepConfig":
        """The sweep with some of its arms, in the order named.

        Raises:
            InputError: It has no such arm.
        """
        if unknown := [name for name in arms if name not in self.arms]:
            raise InputError(f"no arm {', '.join(unknown)} in this sweep; it has {', '.join(self.arms)}")
        return replace(self, arms={name: self.arms[name] for name in arms})

    def training(self, arm: str, choice: int, seed: int) -> TrainConfig:
        """The training of an arm; one without choices has a single one, number 0."""
        config = self.arms[arm]
        tree = laid_over(laid_over(read_tree(self.base), self.settings), config.settings)
        if config.choices:
            tree = laid_over(tree, config.choices[choice])
        folder = f"{self.out}/{arm}/choice{choice}-seed{seed}"
        return from_tree(TrainConfig, {**tree, "out": folder, "seed": seed}, where=f"arm {arm}")

    def asked(self, arm: str) -> Generation:
        """How the policy of an arm is asked."""
        tree = {name: getattr(self.generation, name) for name in Generation.__dataclass_fields__}
        return from_tree(
            Generation, laid_over(tree, self.arms[arm].generation), where=f"arm {arm}: generation"
        )


def _same(a: DatasetConfig, b: DatasetConfig) -> bool:
    return (a.name, a.split, a.path) == (b.name, b.split, b.path)
