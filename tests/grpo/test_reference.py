"""The reference in host memory: the same run, with its parameters on the device only while it is asked."""

from dataclasses import replace

import jax
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo import train
from pixelthink_jax.grpo.reference import to_host
from pixelthink_jax.rl.objective import LossConfig
from tests.evaluation.tiny import tiny_policy
from tests.grpo.test_run import config, untimed  # noqa: F401 - the fixture


def test_where_the_reference_waits_changes_nothing(config, tmp_path):  # noqa: F811
    config = replace(
        config, steps=2, evaluation=replace(config.evaluation, every=0), loss=LossConfig(kl_coef=0.3)
    )
    runs = [
        untimed(train(replace(config, out=str(tmp_path / where), reference_memory=where)).history)
        for where in ("device", "host")
    ]
    assert runs[0][1]["kl"] > 0
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_parameters_wait_in_pinned_memory():
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(to_host(tiny_policy().params))}
    assert kinds == {"pinned_host"}


def test_a_reference_that_shares_parameters_stays_on_the_device(config):  # noqa: F811
    with pytest.raises(InputError, match="reference_memory host: the reference shares"):
        replace(config, reference_memory="host", freeze_vision=True)
