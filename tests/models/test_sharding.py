"""Placing parameters on a mesh changes where they are and nothing else; two host devices stand for two chips."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl.presets import PRESETS
from pixelthink_jax.models.qwen_vl.sharding import partition_spec
from pixelthink_jax.policy import Policy
from tests.models.qwen_small import SMALL, Batch, difference, make_batch, named_params

AXES = ("data", "fsdp", "tensor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharding") / "policy"
    Policy(SMALL, named_params(SMALL)).export(folder)
    return folder


def logits(policy: Policy, batch: Batch) -> np.ndarray:
    return np.asarray(policy.logits(*batch))


@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 1, 2)], ids=["fsdp", "tensor"])
def test_a_sharded_policy_is_the_same_policy(folder: Path, shape: tuple[int, int, int]) -> None:
    if jax.device_count() < 2:
        pytest.skip("one device")
    mesh = jax.make_mesh(shape, AXES, devices=jax.devices()[:2], axis_types=(AxisType.Auto,) * 3)
    policy = Policy.from_pretrained(folder, dtype="float32", mesh=mesh)
    sizes, split = dict(mesh.shape), 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(policy.params)[0]:
        name = "/".join(key.key for key in path)
        spec = partition_spec(name, leaf.shape, sizes)
        assert leaf.sharding.spec == spec, name
        halved = leaf.addressable_shards[0].data.size * 2 == leaf.size
        assert halved == any(axis and sizes[axis] == 2 for axis in spec), name
        split += halved * leaf.size
    assert split > 0.8 * sum(leaf.size for leaf in jax.tree.leaves(policy.params))
    plain = Policy.from_pretrained(folder, dtype="float32")
    batch = make_batch("two sizes")
    assert difference(logits(policy, batch), logits(plain, batch)) < 1e-5


@pytest.mark.parametrize("name", PRESETS)
def test_every_large_parameter_of_a_published_model_is_cut_both_ways(name: str) -> None:
    sizes = {"data": 1, "fsdp": 4, "tensor": 2}
    shapes = jax.eval_shape(lambda key: qwen_vl.init_params(PRESETS[name], key), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        spec = partition_spec("/".join(key.key for key in path), leaf.shape, sizes)
        assert len(spec) <= leaf.ndim
        if leaf.size > 5e6:
            assert {axis for axis in spec if axis} == {"fsdp", "tensor"}, (path, leaf.shape)
        for axis, n in zip(spec, leaf.shape, strict=False):
            assert axis is None or n % sizes[axis] == 0


def test_axes_that_do_not_divide_or_are_not_there_are_left_out() -> None:
    path, shape = "text/blocks/q_proj/kernel", (3, 6, 10)
    assert partition_spec(path, shape, {"fsdp": 4, "tensor": 5}) == PartitionSpec(None, None, "tensor")
    assert partition_spec(path, shape, {"fsdp": 3}) == PartitionSpec(None, "fsdp", None)
    assert partition_spec("text/blocks/o_proj/kernel", shape, {"fsdp": 5, "tensor": 3}) == PartitionSpec(
        None, "tensor", "fsdp"
    )
    assert partition_spec("text/blocks/q_proj/bias", (3, 6), {"fsdp": 3, "tensor": 2}) == PartitionSpec()
