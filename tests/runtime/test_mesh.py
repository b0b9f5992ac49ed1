"""Sizes of a mesh: what fits, what is cut into groups, and what is refused with the remedy."""

from itertools import product

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.mesh import MeshConfig, fitted_axes, make_meshes, rollout_config


@pytest.mark.parametrize("sizes", [(0, 1, 1), (-1, -1, 1), (1, -2, 1)])
def test_sizes_that_mean_nothing_are_refused(sizes):
    with pytest.raises(InputError, match="expected numbers of chips, and -1 at one place"):
        MeshConfig(*sizes)


def test_a_mesh_larger_than_the_devices_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="data 4 x fsdp 4 x tensor 1 is 16 chips, there are 8; set one axis"):
        MeshConfig(4, 4, 1).resolved(8)
    with pytest.raises(
        InputError, match="rollout_mesh: fsdp 1 x tensor 3 is 3 chips, there are 8; use a div"
    ):
        MeshConfig(-1, 1, 3).resolved(8, where="rollout_mesh")


@pytest.mark.parametrize(
    ("data", "fsdp", "prompts", "group"), [*product([1, 2, 4, 8], [1, 2, 8], [1, 4, 6], [8])]
)
def test_every_chip_has_prompts_or_completions_of_its_own_or_the_mesh_is_refused(data, fsdp, prompts, group):
    try:
        axes = fitted_axes(MeshConfig(data, fsdp, 1), prompts=prompts, group_size=group)
    except InputError as error:
        assert "can be used" in str(error)
        return
    sizes = dict(zip(axes.names, axes.sizes, strict=True))
    assert prompts % (sizes["data"] * sizes["fsdp"]) == 0
    parts = sizes.get("data_group", 1) * sizes.get("fsdp_group", 1)
    assert group % parts == 0
    assert sizes["data"] * sizes["fsdp"] * parts == data * fsdp


def test_decoding_never_gathers_weights():
    with pytest.raises(InputError, match="rollout_mesh: fsdp 4 would gather every weight at every token"):
        rollout_config(MeshConfig(1, 4, 1), MeshConfig(2, 4, 1))


def test_without_a_mesh_there_is_none():
    found = make_meshes(None, None, prompts=1, group_size=1)
    assert found.train is None
    assert found.rollout is None
    with pytest.raises(InputError, match="give both, or neither"):
        make_meshes(None, MeshConfig(), prompts=1, group_size=1)
