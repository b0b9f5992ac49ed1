"""A policy that the project loads itself, as a back end: any Qwen2.5-VL folder, on one device or on a mesh."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.config import LocalConfig
from pixelthink_jax.judge.protocol import Failure, Reply, Request
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.prompts import PromptTemplate

# The question of a policy's prompt is lower-cased and stripped, its instruction is not: the request is the
# instruction, after these words.
_OPENING = "look at the image"
_TEMPLATE = PromptTemplate(name="judge", text="<image>First, {Question}.")


class LocalBackend:
    """A back end that decodes several requests together; one call at a time, since the devices are shared."""

    workers = 1

    def __init__(self, policy: Policy, config: LocalConfig, *, max_image_pixels: int | None = None):
        """Takes a loaded policy; its answer format and prompt are not used, its image limits are.

        Args:
            policy: With a processor.
            config: Sampling and batch size.
            max_image_pixels: Larger images are made smaller to this; None takes that of `config`.
        """
        pixels = max_image_pixels or config.max_image_pixels
        asked = PolicyFormat(
            coordinate_frame="model_pixels",
            resize=ResizePolicy(kind="smart", size=None, max_pixels=pixels),
            prompt=_TEMPLATE,
            system_prompt=policy.processor.format.system_prompt,
        )
        processor = dataclasses.replace(policy.processor, format=asked)
        self._policy = dataclasses.replace(policy, loaded_processor=processor)
        self._config = config
        self.batch_size = config.batch_size
        place = config.policy if policy.folder is None else policy.folder.name
        self.name = f"{place} here, temperature {config.temperature}, {config.dtype}, image pixels {pixels}"

    @classmethod
    def load(cls, config: LocalConfig) -> "LocalBackend":
        """Opens the folder, on a mesh where one is asked for.

        Raises:
            InputError: The folder cannot be used, or there are not as many devices.
        """
        policy = Policy.from_pretrained(Path(config.policy), dtype=config.dtype, mesh=_mesh(config.mesh))
        _ = policy.processor
        return cls(policy, config)

    def replies(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """Decodes all that can be asked together; see `Backend.replies`."""
        results: dict[int, Reply | Failure] = {}
        lengths: dict[int, int] = {}
        for i, request in enumerate(requests):
            try:
                prompt = self._policy.processor.prompt(request.image, _OPENING, instruction=request.prompt)
                lengths[i] = len(prompt.input_ids)
            except InputError as error:
                results[i] = Failure(str(error))
        asked = [requests[i] for i in lengths]
        if asked:
            groups = self._policy.generate(
                [request.image for request in asked],
                [_OPENING] * len(asked),
                instructions=[request.prompt for request in asked],
                max_new_tokens=max(request.form.max_tokens for request in asked),
                temperature=self._config.temperature,
                batch_size=self.batch_size,
            )
            for (i, length), (completion,) in zip(lengths.items(), groups, strict=True):
                cut, tokens = completion.finish_reason == "length", len(completion.token_ids)
                results[i] = Reply(completion.text, length, tokens, truncated=cut)
        return [results[i] for i in range(len(requests))]

    def stop(self) -> None:
        """Nothing waits here: a batch under way is decoded to its end."""

    def close(self) -> None:
        """There is nothing to give back."""


def _mesh(sizes: dict[str, int]) -> jax.sharding.Mesh | None:
    if not sizes:
        return None
    needed = 1
    for size in sizes.values():
        needed *= size
    if needed > jax.device_count():
        raise InputError(
            f"backend.mesh {sizes}: it needs {needed} devices, there are {jax.device_count()}; make it smaller"
        )
    axes = (jax.sharding.AxisType.Auto,) * len(sizes)
    devices = jax.devices()[:needed]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axes, devices=devices)
