"""Accuracy and quality of thought against their cost: SAT, RST and URSS.

The paper names these measures and shows their values; it could not be read how they are defined. The formulas here
are RECONSTRUCTED from the bars of its teaser figure (Seg-Zero against PixelThink: RST 1.138 and 1.419, SAT 0.871 and
1.228, URSS 0.950 and 1.290): they agree with them to 1.4 %, which does not prove them. Every constant is an argument,
and reports print the formula beside the number.
"""

import math
from collections.abc import Sequence

GAMMA = 0.7
"""Weight of SAT in URSS; 0.7 is in the paper's list of parameters and fits its figure."""

EXPONENT = 0.5
"""Power of the tokens in the cost; a free fit to the figure gives 0.48."""

FORMULA = (
    "reconstructed: SAT = gIoU[%] / (P * tokens^{exponent:g}), RST = RScore[%] / (P * tokens^{exponent:g}), "
    "URSS = {gamma:g} SAT + {rest:g} RST, P = billions of parameters"
)


def formula(*, gamma: float = GAMMA, exponent: float = EXPONENT) -> str:
    """The formulas as reports print them."""
    return FORMULA.format(gamma=gamma, exponent=exponent, rest=round(1 - gamma, 6))


def score_per_cost(
    percent: float, tokens: float, *, size_billions: float, exponent: float = EXPONENT
) -> float:
    """A score against the size of the model and the length of its thoughts (reconstructed, see the module).

    Args:
        percent: The score in per cent.
        tokens: Mean tokens of thought; where there are none the measure means nothing, and is nan.
        size_billions: Parameters of the policy, in billions.
        exponent: Power of the tokens.

    Raises:
        ValueError: The size is not positive.

    >>> round(score_per_cost(58.2, 90.58, size_billions=7), 3), round(score_per_cost(60.17, 47.66, size_billions=7), 3)
    (0.874, 1.245)
    """
    if size_billions <= 0:
        raise ValueError(f"size_billions must be positive, got {size_billions}")
    return percent / (size_billions * tokens**exponent) if tokens > 0 else math.nan


def sat(giou: float, tokens: float, *, size_billions: float, exponent: float = EXPONENT) -> float:
    """Segmentation accuracy per token (reconstructed); `giou` in [0, 1]."""
    return score_per_cost(100 * giou, tokens, size_billions=size_billions, exponent=exponent)


def rst(rscore: float, tokens: float, *, size_billions: float, exponent: float = EXPONENT) -> float:
    """Reasoning score per token (reconstructed); `rscore` in [0, 1]."""
    return score_per_cost(100 * rscore, tokens, size_billions=size_billions, exponent=exponent)


def urss(sat_value: float, rst_value: float, *, gamma: float = GAMMA) -> float:
    """The unified score (reconstructed): `gamma SAT + (1 - gamma) RST`.

    Raises:
        ValueError: `gamma` is not in [0, 1].

    >>> round(urss(0.871, 1.138), 3), round(urss(1.228, 1.419), 3)
    (0.951, 1.285)
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    # A weight of zero leaves a measure out, also one that is nan.
    parts = [weight * value for weight, value in ((gamma, sat_value), (1 - gamma, rst_value)) if weight]
    return sum(parts)


def weight_sweep(
    sat_value: float, rst_value: float, gammas: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 1.0)
) -> dict[float, float]:
    """URSS under other weights: a ranking that turns with the weight says little.

    >>> weight_sweep(1.0, 2.0, (0.0, 0.5, 1.0))
    {0.0: 2.0, 0.5: 1.5, 1.0: 1.0}
    """
    return {gamma: urss(sat_value, rst_value, gamma=gamma) for gamma in gammas}
