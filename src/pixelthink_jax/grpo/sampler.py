"""Completions for training, with the parameters on the device as they are: nothing is copied through the host."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from pixelthink_jax.policy import Policy
from pixelthink_jax.rl.placement import DecodeLayout, place_prompts
from pixelthink_jax.rl.rollout import PromptArrays, RolloutBatch, sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.runtime.mesh import Meshes, in_use


class Sampler:
    """Draws the groups of a step; the same step draws the same completions from the same parameters."""

    def __init__(
        self,
        policy: Policy,
        sampling: SamplingConfig,
        *,
        group_size: int,
        seed: int,
        dtype: DTypeLike,
        meshes: Meshes | None = None,
    ):
        """Takes vocabulary and architecture from `policy`, computes in `dtype`, on one device without `meshes`."""
        meshes = meshes or Meshes(None, None)
        self._rules, self._sampling = policy.rules, sampling
        self._config, self._image_config = policy.config, policy.processor.image_config
        self._group_size, self._seed = group_size, seed
        self._mesh = meshes.rollout
        self._decode_params = DecodeLayout(
            policy.config, dtype=dtype, train=meshes.train, rollout=meshes.rollout
        )

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
        decode_params = self._decode_params(params)
        with in_use(self._mesh):
            return sample_completions(
                decode_params,
                place_prompts(prompts, self._mesh),
                keys,
                self._rules,
                self._sampling,
                self._config,
                self._image_config,
            )
