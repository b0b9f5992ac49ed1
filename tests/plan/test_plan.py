"""Plans: names of machines, bytes that must add up, and verdicts."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import pytest

from pixelthink_jax.cli import main
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.models.qwen_vl.lora import LoraConfig
from pixelthink_jax.plan import make_plan, parse_topology
from pixelthink_jax.plan.shapes import run_shapes
from pixelthink_jax.runtime.mesh import MeshConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def paper():
    return load_config(TrainConfig, CONFIGS / "pixelthink_7b.yaml")


@pytest.mark.parametrize(
    ("name", "chips", "hosts"),
    [
        ("v5e-16", 16, 4),
        ("v5litepod-16", 16, 4),
        ("v5p-8", 4, 1),
        ("v6e-64", 64, 16),
        ("v5e:4x4", 16, 4),
        ("v5p:2x2x2", 8, 2),
        ("gpu:1x141GB", 1, 1),
        ("gpu:8x80GB", 8, 1),
        ("gpu:1x24GB", 1, 1),
    ],
)
def test_machines_are_known_by_the_names_people_use(name, chips, hosts):
    found = parse_topology(name)
    assert (found.name, found.chips, found.hosts) == (name, chips, hosts)


@pytest.mark.parametrize(
    "name", ["v5-16", "v5e-17", "v5p-7", "v5e:4x4x4", "gpu:1x81GB", "gpu:0x80GB", "", "v5e:0x4"]
)
def test_a_name_that_is_no_machine_gives_one_line(name):
    with pytest.raises(
        InputError, match=r"topology .*; (did you mean|expected)|expected gpu|slice has"
    ) as error:
        parse_topology(name)
    assert "\n" not in str(error.value)


def test_on_one_chip_the_bytes_are_those_of_the_arrays(paper):
    plan = make_plan(paper, parse_topology("gpu:1x141GB"))
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    shapes = run_shapes(paper)
    assert plan.update_bytes["parameters"] == size(shapes.state.params) == 2 * 8_292_166_656
    assert plan.update_bytes["moments"] == size(shapes.state.opt_state)
    assert plan.update_bytes["low halves"] == size(shapes.state.low)
    assert not any(plan.network_bytes.values())
    assert plan.step_seconds_floor > plan.flops / plan.topology.chip.flops_per_second


def test_chips_share_what_is_cut(paper):
    config = dataclasses.replace(paper, mesh=MeshConfig(1, 16, 1), micro_batches=1)
    many, one = make_plan(config, parse_topology("v5e-16")), make_plan(paper, parse_topology("gpu:1x141GB"))
    for kind in ("parameters", "moments", "low halves", "reference"):
        share = one.update_bytes[kind] / many.update_bytes[kind]
        assert math.isclose(share, 16, rel_tol=1e-2), kind
    assert many.flops == one.flops


def test_an_adapter_shares_its_base_with_the_reference(paper):
    config = dataclasses.replace(paper, lora=LoraConfig())
    plan = make_plan(config, parse_topology("gpu:1x80GB"))
    assert plan.update_bytes["reference"] == 0
    assert plan.update_bytes["moments"] < 0.2 * plan.update_bytes["parameters"]


def test_more_chips_than_prompts_and_completions_are_refused(paper):
    with pytest.raises(InputError, match="at most 8 can be used; raise prompts_per_step"):
        make_plan(dataclasses.replace(paper, mesh=MeshConfig(1, -1, 1)), parse_topology("v5e-16"))


def test_the_command_prints_one_object_and_says_in_its_status_whether_it_fits(capsys):
    config = str(CONFIGS / "pixelthink_7b.yaml")
    assert main(["plan", "--config", config, "--topology", "gpu:1x24GB", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False
    assert found["per_chip_bytes"] > found["capacity_bytes"]
    assert found["remedies"]
    assert {"flops", "step_seconds_floor"} <= found.keys()


def test_a_typo_is_one_line_and_status_two(capsys):
    config = str(CONFIGS / "pixelthink_7b.yaml")
    assert main(["plan", "--config", config, "--topology", "v5ee-16"]) == 2
    assert (
        capsys.readouterr().err
        == "pixelthink: error: topology v5ee-16: no machine of that name; did you mean v5e-16?\n"
    )
