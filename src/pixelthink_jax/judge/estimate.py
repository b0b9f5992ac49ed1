"""What a run would take, before anything is asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pixelthink_jax.judge.config import EndpointConfig, LocalConfig
from pixelthink_jax.judge.protocol import Request
from pixelthink_jax.judge.sizes import input_tokens


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens of a run without bad answers.

    Attributes:
        rows: Rows still to be done.
        sampled: Rows that were read for this.
        calls: One for each row and task.
        input_tokens: Scaled up from the rows read: a token for 4 characters and one for 28x28 pixels (as
            Qwen2.5-VL counts; others count otherwise).
        output_tokens: At most: every answer as long as it may be.
        cost: At most, in the config's currency; None where no prices are given.
        currency: Of the cost.
    """

    rows: int
    sampled: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    currency: str

    def text(self) -> str:
        """Three lines for a reader."""
        cost = "unknown; give backend.input_price and backend.output_price, of a million tokens"
        if self.cost is not None:
            cost = f"at most {self.cost:.2f} {self.currency}, if no answer has to be asked for again"
        return (
            f"calls   {self.calls:,} ({self.rows:,} rows)\n"
            f"tokens  about {self.input_tokens:,} in (from {self.sampled} rows), at most {self.output_tokens:,} out\n"
            f"cost    {cost}"
        )


def estimate_requests(
    samples: Sequence[Sequence[Request]], rows: int, backend: EndpointConfig | LocalConfig
) -> Estimate:
    """Scales the requests of some rows up to all of them."""
    requests = [request for sample in samples for request in sample]
    scale = rows / len(samples) if samples else 0.0
    max_side = backend.max_image_side if isinstance(backend, EndpointConfig) else None
    tokens = math.ceil(scale * sum(input_tokens(request, max_side) for request in requests))
    longest = math.ceil(scale * sum(request.form.max_tokens for request in requests))
    currency = backend.currency if isinstance(backend, EndpointConfig) else ""
    return Estimate(
        rows=rows,
        sampled=len(samples),
        calls=round(scale * len(requests)),
        input_tokens=tokens,
        output_tokens=longest,
        cost=cost_of(tokens, longest, backend),
        currency=currency,
    )


def cost_of(input_tokens: int, output_tokens: int, backend: EndpointConfig | LocalConfig) -> float | None:
    """Tokens times the prices of the config; None where it has none, as a policy of one's own.

    >>> cost_of(2_000_000, 100_000, EndpointConfig(input_price=1.5, output_price=10.0))
    4.0
    """
    if isinstance(backend, LocalConfig) or backend.input_price is None or backend.output_price is None:
        return None
    return round((input_tokens * backend.input_price + output_tokens * backend.output_price) / 1e6, 6)
