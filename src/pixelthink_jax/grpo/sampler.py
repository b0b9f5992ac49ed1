"""Completions for training, with the parameters on the device as they are: nothing is copied through the host."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl.rollout import PromptArrays, RolloutBatch, SamplingConfig, sample_completions
from pixelthink_jax.rl.sampling import row_keys


class Sampler:
    """Draws the groups of a step; the same step draws the same completions from the same parameters."""

    def __init__(
        self, policy: Policy, sampling: SamplingConfig, *, group_size: int, seed: int, dtype: DTypeLike
    ):
        """Takes vocabulary and architecture from `policy`, computes in `dtype`."""
        self._rules, self._sampling = policy.rules, sampling
        self._config, self._image_config = policy.config, policy.processor.image_config
        self._group_size, self._seed = group_size, seed
        self._decode_params = jax.jit(partial(_decode_params, dtype=jnp.dtype(dtype)))

    def __call__(self, params: Any, prompts: PromptArrays, *, step: int, attempt: int = 0) -> RolloutBatch:
        """One group of completions a prompt.

        Args:
            params: The policy's parameters, stacked.
            prompts: The prompts of the step.
            step: Number of the update, which the draw depends on.
            attempt: Number of the rollout within the step, likewise.
        """
        count = prompts.input_ids.shape[0]
        places = jnp.arange(attempt * count, (attempt + 1) * count)
        keys = row_keys(self._seed, step, places, self._group_size)
        return sample_completions(
            self._decode_params(params),
            prompts,
            keys,
            self._rules,
            self._sampling,
            self._config,
            self._image_config,
        )


def _decode_params(params: Any, *, dtype: jnp.dtype) -> Any:
    """Per-layer parameters in the dtype of the computation, for the decode loop."""
    return qwen_vl.unstack_layers(jax.tree.map(lambda leaf: leaf.astype(dtype), params))
