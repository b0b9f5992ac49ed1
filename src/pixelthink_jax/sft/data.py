"""The rows of a stage, from the datasets its config names."""

from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.sources import GivenBeginnings, MixedSource, open_source
from pixelthink_jax.sft.config import DataConfig


def open_data(parts: tuple[DataConfig, ...], render_size: tuple[int, int] | None) -> ExampleSource:
    """One dataset, or several mixed by weight.

    Args:
        parts: The datasets.
        render_size: `(width, height)` at which `shapereason` draws its pictures; None draws canvas size.
    """
    sources = []
    for part in parts:
        where = dict(vars(part))
        del where["weight"], where["given_until"]
        source = open_source(**where, render_size=render_size)
        sources.append(source if part.given_until is None else GivenBeginnings(source, part.given_until))
    return sources[0] if len(sources) == 1 else MixedSource(sources, [part.weight for part in parts])
