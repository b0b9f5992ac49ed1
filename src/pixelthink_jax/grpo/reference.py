"""The reference policy of a run: beside the policy on the device, or waiting in host memory between its passes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl.step import StepBatch, make_reference_pass

_HOST = "pinned_host"


class Reference:
    """What a trained policy is held close to.

    Attributes:
        resident: Parameters that the update reads; None where it has no divergence term, or where `scored` brings what
            the reference says.
    """

    def __init__(self, policy: Policy, config: TrainConfig):
        """Takes the parameters of `policy`.

        Raises:
            InputError: The device has no host memory to wait in.
        """
        used = config.loss.kl_coef > 0
        self._waiting: Any = None
        self.resident = policy.params if used and config.reference_memory == "device" else None
        if used and config.reference_memory == "host":
            self._places = jax.tree.map(lambda leaf: leaf.sharding, policy.params)
            self._waiting = to_host(policy.params)
            self._score = make_reference_pass(
                config.step_config,
                policy.config,
                policy.processor.image_config,
                dtype=jnp.dtype(config.dtype),
            )

    def scored(self, batch: StepBatch) -> StepBatch:
        """The batch with the reference's log-probabilities, where the update is not to make them."""
        if self._waiting is None:
            return batch
        params = jax.device_put(self._waiting, self._places)
        found = dataclasses.replace(batch, reference_logprobs=self._score(params, batch))
        # The device forgets the parameters before the update needs their place.
        jax.block_until_ready(found.reference_logprobs)
        return found


def to_host(params: Any) -> Any:
    """Parameters in pinned host memory, cut as they are on the devices.

    Raises:
        InputError: The device has none.
    """
    leaf = jax.tree.leaves(params)[0]
    kinds = [memory.kind for memory in next(iter(leaf.sharding.device_set)).addressable_memories()]
    if _HOST not in kinds:
        raise InputError(
            f"reference_memory host: this device has no {_HOST} memory ({', '.join(kinds)}); use device"
        )
    return jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding.with_memory_kind(_HOST), params))
