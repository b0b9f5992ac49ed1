"""Reasoning segmentation in JAX: a policy thinks and points, a segmenter draws the mask.

The names below are the public face. They are imported when they are first used, so that
`import pixelthink_jax` and `pixelthink --help` cost nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixelthink_jax.grpo import TrainConfig, train
    from pixelthink_jax.policy import Policy
    from pixelthink_jax.segmentation import segment
    from pixelthink_jax.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["Policy", "Segmenter", "TrainConfig", "segment", "train"]

# Public name -> the module that defines it.
_HOME = {
    "Policy": "policy",
    "Segmenter": "segmenter",
    "TrainConfig": "grpo",
    "segment": "segmentation",
    "train": "grpo",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
