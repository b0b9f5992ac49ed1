"""What a run works with, opened once, and the state that it begins or continues with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.asking import Asker
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.custom_rewards import CustomReward, load_custom_rewards
from pixelthink_jax.grpo.difficulty import open_difficulty
from pixelthink_jax.grpo.reference import Reference, to_host
from pixelthink_jax.grpo.sampler import Sampler
from pixelthink_jax.grpo.scoring import Scorer, check_answers
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl.step import make_step
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.mesh import Meshes, make_meshes, own_mesh
from pixelthink_jax.runtime.meter import Stopwatch
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.recompilation import CompileWatch
from pixelthink_jax.runtime.train_state import TrainState, begin
from pixelthink_jax.segmentation import load_policy, load_segmenter
from pixelthink_jax.segmentation.loading import model_folder
from pixelthink_jax.segmenter import Segmenter


@dataclass
class Parts:
    """What the loop works with; everything that is opened once."""

    policy: Policy
    begun: Any
    frozen: Any
    reference: Reference
    segmenter: Segmenter | None
    asker: Asker
    update: Any
    held_out: ExampleSource | None
    meshes: Meshes
    seconds: Stopwatch = field(default_factory=Stopwatch)
    compiling: CompileWatch = field(default_factory=CompileWatch)

    def shardings(self, tree: Any) -> Any:
        """Where each leaf of a training state goes; None on one device."""
        mesh = self.meshes.train
        return None if mesh is None else qwen_vl.tree_shardings(tree, mesh, self.policy.config)

    def policy_at(self, state: TrainState) -> Policy:
        """The policy as trained so far."""
        return self.policy.with_params(qwen_vl.whole_params(state.params, self.frozen))


def open_parts(config: TrainConfig, reward: Callable[..., Any] | None) -> Parts:
    """Opens models, data and compiled functions, the small and likely mistakes first."""
    held_out = open_data(config.evaluation.data) if config.evaluation.every else None
    meshes = make_meshes(
        config.mesh,
        config.rollout_mesh,
        prompts=config.prompts_per_step,
        group_size=config.group_size,
        micro_batches=config.micro_batches,
    )
    segmenter = None
    if config.evaluation.segmenter is not None and config.draws_masks:
        segmenter = load_segmenter(model_folder(config.evaluation.segmenter), mesh=own_mesh(meshes.train))
    policy = load_policy(
        model_folder(config.policy), dtype=config.dtype, mesh=meshes.train, format=config.format
    )
    check_answers(config.reward, policy.processor.format)
    if meshes.rollout is not None:
        qwen_vl.check_mesh(policy.config, meshes.rollout.shape, where="rollout_mesh")
    rewards = load_custom_rewards(config.custom_rewards, processor=policy.processor, segmenter=segmenter)
    if reward is not None:
        rewards.append(CustomReward(getattr(reward, "__name__", "reward"), reward))
    update = make_step(
        config.step_config,
        policy.config,
        policy.processor.image_config,
        make_optimizer(config.optim, config.steps),
        dtype=jnp.dtype(config.dtype),
    )
    trained, frozen = qwen_vl.trained_and_frozen(
        policy.params,
        policy.config,
        freeze_vision=config.freeze_vision,
        lora=config.lora,
        key=jax.random.key(config.seed),
    )
    sampler = Sampler(
        policy,
        config.sampling,
        group_size=config.group_size,
        seed=config.seed,
        dtype=config.dtype,
        meshes=meshes,
    )
    reference = Reference(policy, config)
    if config.reference_memory == "host":
        # What was loaded becomes the state of the first update, and stays on the device for nothing else.
        policy = policy.with_params(to_host(policy.params))
    scorer = Scorer(config, policy.processor, open_difficulty(config.difficulty), rewards)
    return Parts(
        policy=policy,
        begun=trained,
        frozen=frozen,
        reference=reference,
        segmenter=segmenter,
        asker=Asker(policy, sampler, scorer, config),
        update=update,
        held_out=held_out,
        meshes=meshes,
    )


def begin_or_continue(
    config: TrainConfig, parts: Parts, checkpoints: Checkpoints
) -> tuple[TrainState, int, dict[str, Any] | None]:
    """The state to begin with, the steps already made, and where the questions stand."""
    optimizer = make_optimizer(config.optim, config.steps)
    # A copy, as the state is donated at each update: the policy that was loaded stays, and is the reference.
    state = begin(jax.tree.map(jnp.copy, parts.begun), optimizer, shardings=parts.shardings)
    parts.begun = None
    if checkpoints.latest_step() is None:
        return state, 0, None
    done, state, extra = checkpoints.restore(state)
    _check_same_run(config, extra["config"])
    return state, done, extra["questions"]


_MAY_CHANGE = (
    "out",
    "machines",
    "mesh",
    "rollout_mesh",
    "micro_batches",
    "gradient_dtype",
    "reference_memory",
    "steps",
    "evaluation",
    "samples_every",
    "checkpoint_every",
    "export_dtype",
    "profile_steps",
    "wandb_project",
)
"""Settings that a resumed run may change; any other would make it another run under the same name."""


def _check_same_run(config: TrainConfig, stored: dict[str, Any]) -> None:
    now = to_tree(config)
    for name, value in now.items():
        if name not in _MAY_CHANGE and stored.get(name) != value:
            raise InputError(
                f"{config.out}: its checkpoint was made with {name} = {stored.get(name)!r:.200}, this config says "
                f"{value!r:.200}; use another --out folder, or the config it was made with"
            )


def open_data(data: Any) -> ExampleSource:
    """The questions that a config names."""
    return open_source(**vars(data))
