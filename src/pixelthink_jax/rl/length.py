r"""What a longer thought costs: length penalties as array functions.

A penalty maps accuracy reward :math:`c`, used length :math:`L` and budget :math:`B` (infinity: no constraint) to the
reward that is paid; arrays are `[prompts, group]`, so it may compare a completion with its siblings. All are
differentiable in their numbers where that has meaning.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from pixelthink_jax.models.layers import AnyArray

Groups = Float[AnyArray, "prompts group"]
Paid = Float[Array, "prompts group"]


class LengthScore:
    """A penalty that multiplies the accuracy by a score of the length alone."""

    def score(self, length: Float[AnyArray, "*n"], budget: Float[AnyArray, "*n"]) -> Float[Array, "*n"]:
        """The share of the accuracy that is paid."""
        raise NotImplementedError

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays the accuracy times the length score."""
        return jnp.asarray(accuracy) * self.score(length, budget)


@dataclass(frozen=True)
class Clipped(LengthScore):
    r""":math:`c \cdot \mathrm{clip}(1 - \beta (L - B), 0, 1)`.

    Source: songw-zju/PixelThink @052d9de.
    """

    slope: float = 0.002
    kind: Literal["clipped"] = "clipped"

    def score(self, length: Float[AnyArray, "*n"], budget: Float[AnyArray, "*n"]) -> Float[Array, "*n"]:
        """One up to the budget, then down to zero.

        >>> Clipped().score(jnp.array([50.0, 146.0, 900.0]), jnp.full(3, 96.0)).round(3).tolist()[::2]
        [1.0, 0.0]
        """
        return jnp.clip(1.0 - self.slope * (jnp.asarray(length) - budget), 0.0, 1.0)


@dataclass(frozen=True)
class OneSided(LengthScore):
    r""":math:`c` up to the budget, :math:`c (1 - \beta (L - B))` beyond it, below zero too.

    Source: PixelThink (arXiv:2505.23727) as its reviewers quote it; VideoSeg-R1.
    """

    slope: float = 0.002
    kind: Literal["one_sided"] = "one_sided"

    def score(self, length: Float[AnyArray, "*n"], budget: Float[AnyArray, "*n"]) -> Float[Array, "*n"]:
        """One up to the budget, then down without end.

        >>> OneSided(slope=0.01).score(jnp.array([50.0, 300.0]), jnp.full(2, 100.0)).tolist()
        [1.0, -1.0]
        """
        return 1.0 - self.slope * jnp.maximum(jnp.asarray(length) - budget, 0.0)


@dataclass(frozen=True)
class L1Exact:
    r""":math:`c - \alpha |B - L|`; :math:`c` without a budget.

    Source: Aggarwal and Welleck 2025 (L1); cmu-l3/l1 @93dd330.
    """

    slope: float = 3e-4
    kind: Literal["l1_exact"] = "l1_exact"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays the accuracy less the distance from the budget, either way.

        >>> L1Exact(0.01)(jnp.ones((1, 2)), jnp.array([[90.0, 110.0]]), jnp.array([[100.0, jnp.inf]])).tolist()[0][1]
        1.0
        """
        known = jnp.isfinite(budget)
        return jnp.asarray(accuracy) - self.slope * jnp.where(
            known, jnp.abs(jnp.where(known, budget, 0.0) - length), 0.0
        )


@dataclass(frozen=True)
class L1Max(LengthScore):
    r""":math:`c \cdot (\mathrm{clip}(\alpha (B - L), -1, 1) + 1) / 2`: shorter than the budget is rewarded.

    Source: cmu-l3/l1 @93dd330 `math_reward.py`.
    """

    slope: float = 0.002
    kind: Literal["l1_max"] = "l1_max"

    def score(self, length: Float[AnyArray, "*n"], budget: Float[AnyArray, "*n"]) -> Float[Array, "*n"]:
        """One half at the budget, more below it and less above.

        >>> L1Max().score(jnp.array([100.0, 9000.0]), jnp.full(2, 100.0)).tolist()
        [0.5, 0.0]
        """
        return (jnp.clip(self.slope * (budget - jnp.asarray(length)), -1.0, 1.0) + 1.0) / 2.0


@dataclass(frozen=True)
class DapoOverlong:
    r""":math:`c + \min(-k (L - B) / L_{buf}, 0)`: the budget is where the buffer before the hard limit begins.

    Source: DAPO (arXiv:2503.14476), equation 13; verl @b178a3c.
    """

    buffer: float = 64.0
    factor: float = 1.0
    kind: Literal["dapo_overlong"] = "dapo_overlong"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays the accuracy less what the buffer holds.

        >>> DapoOverlong(buffer=50.0)(jnp.ones((1, 2)), jnp.array([[80.0, 125.0]]), jnp.full((1, 2), 100.0)).tolist()
        [[1.0, 0.5]]
        """
        return jnp.asarray(accuracy) + jnp.minimum(
            self.factor * (budget - jnp.asarray(length)) / self.buffer, 0.0
        )


@dataclass(frozen=True)
class Kimi:
    r""":math:`c + \lambda` if correct, :math:`c + \min(0, \lambda)` if not.

    .. math:: \lambda = \tfrac12 - \frac{L - L_{min}}{L_{max} - L_{min}}

    Shortest and longest are of the group; no budget enters, and a group of one length pays :math:`c`.

    Source: Kimi k1.5 (arXiv:2501.12599), the length reward; the same as huggingface/open-r1 `len_reward`.
    """

    correct_from: float = 5.0
    weight: float = 1.0
    kind: Literal["kimi"] = "kimi"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays the accuracy and the place of the length within the group.

        >>> accuracy, length = jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[10.0, 30.0, 10.0]])
        >>> Kimi(correct_from=1.0)(accuracy, length, jnp.ones((1, 3))).tolist()
        [[1.5, 0.5, 0.0]]
        """
        del budget
        accuracy, length = jnp.asarray(accuracy), jnp.asarray(length)
        shortest = length.min(axis=1, keepdims=True)
        span = length.max(axis=1, keepdims=True) - shortest
        place = 0.5 - (length - shortest) / jnp.where(span > 0, span, 1.0)
        term = jnp.where(accuracy >= self.correct_from, place, jnp.minimum(place, 0.0))
        return accuracy + self.weight * jnp.where(span > 0, term, 0.0)


@dataclass(frozen=True)
class Cosine:
    r"""A correct answer is worth less the longer it is, a wrong one is the less bad the longer it was thought about.

    .. math:: r(L) = \mathrm{to} + \tfrac12 (\mathrm{from} - \mathrm{to})(1 + \cos(\pi L / L_{max}))

    from `correct[0]` at length 0 to `correct[1]` at `longest`, or between the two of `wrong`; a completion of `longest`
    or more pays `exceeded`. No budget enters.

    Source: Yeo et al. 2025 (arXiv:2502.03373); eddycmu/demystify-long-cot @e90cf9b.
    """

    longest: float = 512.0
    correct: tuple[float, float] = (5.0, 2.5)
    wrong: tuple[float, float] = (-2.5, 0.0)
    exceeded: float = -2.5
    correct_from: float = 5.0
    kind: Literal["cosine"] = "cosine"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays by length and correctness alone.

        >>> accuracy, length = jnp.array([[5.0, 5.0, 0.0]]), jnp.array([[0.0, 256.0, 600.0]])
        >>> Cosine()(accuracy, length, jnp.ones((1, 3))).tolist()
        [[5.0, 3.75, -2.5]]
        """
        del budget
        length, is_correct = jnp.asarray(length), accuracy >= self.correct_from
        start = jnp.where(is_correct, self.correct[0], self.wrong[0])
        end = jnp.where(is_correct, self.correct[1], self.wrong[1])
        share = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(length / self.longest, 0.0, 1.0)))
        return jnp.where(length >= self.longest, self.exceeded, end + (start - end) * share)


@dataclass(frozen=True)
class O1Pruner:
    r""":math:`\mathrm{clip}((\bar L - L) / L + \alpha (c - \bar c), -2, 4)`, means over the group; no budget enters.

    Source: StarDewXXX/O1-Pruner @04c0863. Difference: `group_advantages` does the standardisation that follows there.
    """

    accuracy_weight: float = 5.0
    kind: Literal["o1_pruner"] = "o1_pruner"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays relative shortness and relative accuracy; an empty completion counts as one unit long.

        >>> O1Pruner()(jnp.ones((1, 2)), jnp.array([[10.0, 30.0]]), jnp.ones((1, 2))).round(3).tolist()[0][0]
        1.0
        """
        del budget
        accuracy, length = jnp.asarray(accuracy), jnp.maximum(length, 1.0)
        shorter = (length.mean(axis=1, keepdims=True) - length) / length
        better = self.accuracy_weight * (accuracy - accuracy.mean(axis=1, keepdims=True))
        return jnp.clip(shorter + better, -2.0, 4.0)


@dataclass(frozen=True)
class NoPenalty:
    """:math:`c`: Seg-Zero, where length costs nothing."""

    kind: Literal["none"] = "none"

    def __call__(self, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
        """Pays the accuracy.

        >>> NoPenalty()(jnp.ones((1, 1)), jnp.full((1, 1), 900.0), jnp.full((1, 1), 96.0)).tolist()
        [[1.0]]
        """
        del length, budget
        return jnp.asarray(accuracy)


Penalty = Clipped | OneSided | L1Exact | L1Max | DapoOverlong | Cosine | Kimi | O1Pruner | NoPenalty


def length_score(penalty: Penalty, accuracy: Groups, length: Groups, budget: Groups) -> Paid:
    """What a penalty leaves of the accuracy: its own score, or the paid reward over the accuracy (1 where that is 0).

    >>> length_score(L1Exact(0.25), jnp.array([[2.0, 0.0]]), jnp.full((1, 2), 8.0), jnp.full((1, 2), 4.0)).tolist()
    [[0.5, 1.0]]
    """
    if isinstance(penalty, LengthScore):
        return penalty.score(length, budget)
    earned = jnp.asarray(accuracy) > 0
    return jnp.where(earned, penalty(accuracy, length, budget) / jnp.where(earned, accuracy, 1.0), 1.0)
