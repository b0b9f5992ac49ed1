r"""How long a thought may be: budgets as array functions of difficulty :math:`D` and uncertainty :math:`U`.

A budget is a length; infinity is no constraint.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.layers import AnyArray

Level = Literal["easy", "medium", "hard"]


@dataclass(frozen=True)
class ThreeWayBudget:
    r"""The paper's budget: low for easy questions, none for medium ones, high and growing with :math:`U` for hard ones.

    .. math:: B = L_{low} \;(D < \tau_2), \quad \infty \;(\tau_2 \le D < \tau_1),
        \quad L_{base} + \alpha U \;(D \ge \tau_1)

    A difficulty that is not a number is easy, as released; an uncertainty that is not finite lifts the constraint.

    Attributes:
        easy: :math:`L_{low}`.
        hard: :math:`L_{base}`.
        uncertainty_scale: :math:`\alpha`.
        easy_below: :math:`\tau_2`.
        hard_from: :math:`\tau_1`.
        uncertainty_branches: Which budgets uncertainty widens.

    Source: PixelThink (arXiv:2505.23727); songw-zju/PixelThink @052d9de, whose constants these are.
    """

    easy: float = 96.0
    hard: float = 256.0
    uncertainty_scale: float = 25.0
    easy_below: float = 3.5
    hard_from: float = 5.0
    uncertainty_branches: tuple[Level, ...] = ("hard",)
    kind: Literal["three_way"] = "three_way"

    def __post_init__(self) -> None:
        _not_negative(self, "easy", "hard", "uncertainty_scale", "easy_below", "hard_from")
        if self.easy_below > self.hard_from:
            raise InputError(f"budget: easy_below {self.easy_below} is above hard_from {self.hard_from}")
        if "medium" in self.uncertainty_branches:
            raise InputError("budget: the medium branch has no budget that uncertainty could widen")

    @property
    def largest(self) -> float:
        """The largest finite budget, at no uncertainty."""
        return max(self.easy, self.hard)

    def __call__(
        self, difficulty: Float[AnyArray, "*n"], uncertainty: Float[AnyArray, "*n"]
    ) -> Float[Array, "*n"]:
        """Budgets of completions.

        >>> budget = ThreeWayBudget()
        >>> budget(jnp.array([2.0, 4.0, 8.0]), jnp.array([0.1, 0.1, 0.1])).tolist()
        [96.0, inf, 258.5]
        """
        uncertainty = jnp.asarray(uncertainty)
        wider = jnp.where(jnp.isfinite(uncertainty), self.uncertainty_scale * uncertainty, jnp.inf)
        easy = self.easy + (wider if "easy" in self.uncertainty_branches else 0.0)
        hard = self.hard + (wider if "hard" in self.uncertainty_branches else 0.0)
        is_hard, is_medium = difficulty >= self.hard_from, difficulty >= self.easy_below
        return jnp.where(is_hard, hard, jnp.where(is_medium, jnp.inf, easy))


@dataclass(frozen=True)
class ContinuousBudget:
    r"""A budget that grows with the difficulty instead of jumping.

    .. math:: B = \mathrm{low} + (\mathrm{high} - \mathrm{low})\,
        \mathrm{clip}\!\left(\tfrac{D - D_0}{D_1 - D_0}, 0, 1\right) + \alpha U

    Attributes:
        low: Budget up to `difficulty_low`.
        high: Budget from `difficulty_high` on.
        difficulty_low: :math:`D_0`.
        difficulty_high: :math:`D_1`.
        uncertainty_scale: :math:`\alpha`.

    Source: ours.
    """

    low: float = 48.0
    high: float = 256.0
    difficulty_low: float = 2.0
    difficulty_high: float = 7.0
    uncertainty_scale: float = 25.0
    kind: Literal["continuous"] = "continuous"

    def __post_init__(self) -> None:
        _not_negative(self, "low", "high", "difficulty_low", "uncertainty_scale")
        if self.difficulty_low >= self.difficulty_high:
            raise InputError(
                f"budget: difficulty_low {self.difficulty_low} must be below difficulty_high {self.difficulty_high}"
            )

    @property
    def largest(self) -> float:
        """The largest finite budget, at no uncertainty."""
        return max(self.low, self.high)

    def __call__(
        self, difficulty: Float[AnyArray, "*n"], uncertainty: Float[AnyArray, "*n"]
    ) -> Float[Array, "*n"]:
        """Budgets of completions.

        >>> budget = ContinuousBudget(50.0, 150.0, difficulty_low=2.0, difficulty_high=6.0, uncertainty_scale=10.0)
        >>> budget(jnp.array([1.0, 4.0, 9.0]), jnp.array([0.0, 0.5, 0.0])).tolist()
        [50.0, 105.0, 150.0]
        """
        span = self.difficulty_high - self.difficulty_low
        share = jnp.clip((jnp.asarray(difficulty) - self.difficulty_low) / span, 0.0, 1.0)
        return self.low + (self.high - self.low) * share + self.uncertainty_scale * jnp.asarray(uncertainty)


@dataclass(frozen=True)
class ConstantBudget:
    """The same budget for every question.

    Attributes:
        length: The budget.
    """

    length: float = 128.0
    kind: Literal["constant"] = "constant"

    def __post_init__(self) -> None:
        _not_negative(self, "length")

    @property
    def largest(self) -> float:
        """The budget."""
        return self.length

    def __call__(
        self, difficulty: Float[AnyArray, "*n"], uncertainty: Float[AnyArray, "*n"]
    ) -> Float[Array, "*n"]:
        """Budgets of completions.

        >>> ConstantBudget(64.0)(jnp.array([1.0, 9.0]), jnp.zeros(2)).tolist()
        [64.0, 64.0]
        """
        return jnp.full(jnp.broadcast_shapes(jnp.shape(difficulty), jnp.shape(uncertainty)), self.length)


Budget = ThreeWayBudget | ContinuousBudget | ConstantBudget


def _not_negative(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"budget: {name} must not be negative, got {getattr(config, name)}")
