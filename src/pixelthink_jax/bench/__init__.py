"""How fast generation, encoding, GRPO steps and reading are here and now: warm, interleaved with a rival, medians."""

from pixelthink_jax.bench.encoding import measure_encoding
from pixelthink_jax.bench.generation import measure_generation
from pixelthink_jax.bench.grpo import measure_grpo
from pixelthink_jax.bench.reading import measure_reading
from pixelthink_jax.bench.timing import Measurement

__all__ = ["Measurement", "measure_encoding", "measure_generation", "measure_grpo", "measure_reading"]
