"""What a training step replaces and a checkpoint keeps."""

from dataclasses import dataclass
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What an update replaces.

    Attributes:
        params: The parameters.
        opt_state: The optimizer's state.
        step: int32 scalar, updates made; a checkpoint is read by way of shapes in its place.
    """

    params: Any
    opt_state: Any
    step: Any
