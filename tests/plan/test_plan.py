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
from pixelthink_jax.grpo.config import HeldOutConfig, TrainConfig
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
    "name",
    [
        "v5-16",
        "v5e-17",
        "v5p-7",
        "v5e:4x4x4",
        "gpu:1x81GB",
        "gpu:0x80GB",
        "",
        "v5e:0x4",
        "v5e:3x5",
        "v5p:3x2x2",
        "v5p:1x1x1",
    ],
)
def test_a_name_that_is_no_machine_gives_one_line(name):
    with pytest.raises(
        InputError, match=r"topology .*; (did you mean|expected)|expected gpu|slice has"
    ) as error:
        parse_topology(name)
    assert "\n" not in str(error.value)


def test_on_one_chip_the_bytes_are_those_of_the_arrays(paper):
    bare = dataclasses.replace(paper, machines={})
    plan = make_plan(bare, parse_topology("gpu:1x141GB"))
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    shapes, update = run_shapes(bare), plan.phase_bytes["update"]
    assert update["parameters"] == size(shapes.state.params) == 2 * 8_292_166_656
    assert update["moments"] == size(shapes.state.opt_state)
    assert update["low halves"] == size(shapes.state.low)
    # The gradients of one micro-batch in bfloat16, and their sum in float32.
    assert update["gradients"] == 3 * update["parameters"]
    assert not any(plan.network_bytes.values())
    assert plan.step_seconds_floor > plan.flops / plan.topology.chip.flops_per_second


def test_chips_share_what_is_cut(paper):
    bare = dataclasses.replace(paper, machines={})
    config = dataclasses.replace(bare, mesh=MeshConfig(1, 16, 1), micro_batches=1)
    many, one = make_plan(config, parse_topology("v5e-16")), make_plan(bare, parse_topology("gpu:1x141GB"))
    for kind in ("parameters", "moments", "low halves", "reference"):
        share = one.phase_bytes["update"][kind] / many.phase_bytes["update"][kind]
        assert math.isclose(share, 16, rel_tol=1e-2), kind
    assert many.flops == one.flops


def test_an_adapter_shares_its_base_with_the_reference(paper):
    config = dataclasses.replace(paper, lora=LoraConfig(), machines={})
    update = make_plan(config, parse_topology("gpu:1x80GB")).phase_bytes["update"]
    assert update["reference"] == 0
    assert update["moments"] < 0.2 * update["parameters"]


def test_a_reference_that_waits_on_the_host_is_there_in_a_phase_of_its_own(paper):
    waiting = make_plan(paper, parse_topology("gpu:1x141GB"))
    assert waiting.fits
    assert "reference" not in waiting.phase_bytes["update"]
    assert waiting.phase_bytes["reference"]["reference"] == 2 * 8_292_166_656
    resident = make_plan(dataclasses.replace(paper, machines={}), parse_topology("gpu:1x141GB"))
    assert not resident.fits
    assert resident.remedies[0] == "set reference_memory to host"


def test_what_blocks_keep_is_paid_in_memory_and_saves_arithmetic(paper):
    bare = dataclasses.replace(paper, mesh=MeshConfig(1, 4, 1), machines={})
    plans = [
        make_plan(dataclasses.replace(bare, remat=remat), parse_topology("v5p-8"))
        for remat in ("full", "dots_except_mlp", "dots", "none")
    ]
    kept = [plan.phase_bytes["update"]["activations"] for plan in plans]
    seconds = [plan.phase_seconds["update"] for plan in plans]
    assert kept == sorted(kept) and len(set(kept)) == 4
    assert seconds == sorted(seconds, reverse=True) and len(set(seconds)) == 4
    assert len({plan.flops for plan in plans}) == 1


def test_a_run_that_draws_masks_holds_a_segmenter(paper):
    plain = make_plan(paper, parse_topology("v5p-8")).phase_bytes
    assert "segmenter" not in plain["update"]
    # SAM2 large has 224 million parameters, without its memory of videos some fewer, in float32.
    assert plain["masks"]["segmenter"] == pytest.approx(4 * 217e6, rel=0.02)
    assert "parameters" not in plain["masks"]
    evaluated = dataclasses.replace(
        paper, evaluation=HeldOutConfig(every=50, segmenter="models/sam2.1-hiera-base-plus")
    )
    found = make_plan(evaluated, parse_topology("v5p-8")).phase_bytes
    assert found["update"]["segmenter"] == found["masks"]["segmenter"] < 0.5 * plain["masks"]["segmenter"]
    assert {"parameters", "decode copy", "images"} <= found["masks"].keys()
    with pytest.raises(
        InputError, match=r"evaluation.segmenter models/other: no such folder, and not one of sam2"
    ):
        make_plan(
            dataclasses.replace(paper, evaluation=HeldOutConfig(segmenter="models/other")),
            parse_topology("v5p-8"),
        )


@pytest.mark.parametrize("name", ["pixelthink_3b", "pixelthink_7b", "pixelthink_3b_lora_24gb"])
def test_shipped_configs_fit_the_machines_they_name(name):
    config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
    for machine in config.machines:
        plan = make_plan(config, parse_topology(machine))
        assert plan.fits, machine
    assert {"gpu:1x24GB"} <= config.machines.keys() or {
        "v5e-16",
        "v5p-8",
        "v5p-64",
        "v6e-16",
    } <= config.machines.keys()


def test_settings_of_a_machine_are_found_under_its_other_names(paper):
    plan = make_plan(paper, parse_topology("v5litepod-16"))
    assert (plan.mesh["fsdp"], plan.mesh["tensor"]) == (8, 2)
    with pytest.raises(InputError, match="machine v5e-8: the config has settings for v5e-16"):
        paper.on("v5e-8")
    with pytest.raises(InputError, match="machines: v5e-16: unknown key 'mash'"):
        dataclasses.replace(paper, machines={"v5e-16": {"mash": {}}})


def test_more_chips_than_prompts_and_completions_are_refused(paper):
    with pytest.raises(InputError, match="at most 8 can be used; raise prompts_per_step"):
        make_plan(
            dataclasses.replace(paper, mesh=MeshConfig(1, -1, 1), machines={}), parse_topology("v5e-16")
        )


def test_the_command_prints_one_object_and_says_in_its_status_whether_it_fits(capsys):
    config = str(CONFIGS / "pixelthink_7b.yaml")
    assert main(["plan", "--config", config, "--topology", "gpu:1x24GB", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False
    assert found["per_chip_bytes"] > found["capacity_bytes"]
    assert found["remedies"]
    assert {"flops", "step_seconds_floor"} <= found.keys()


def test_all_machines_of_a_config_are_a_table(capsys):
    words = ["plan", "--config", str(CONFIGS / "pixelthink_3b_lora_24gb.yaml"), "--topology", "all"]
    assert main([*words, "--by", "formula"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| machine | mesh |")
    assert row.startswith("| gpu:1x24GB | one chip | one chip |") and row.endswith("| yes |")
    assert main([*words, "--json"]) == 0
    assert [plan["topology"] for plan in json.loads(capsys.readouterr().out)] == ["gpu:1x24GB"]


def test_a_typo_is_one_line_and_status_two(capsys):
    config = str(CONFIGS / "pixelthink_7b.yaml")
    assert main(["plan", "--config", config, "--topology", "v5ee-16"]) == 2
    assert (
        capsys.readouterr().err
        == "pixelthink: error: topology v5ee-16: no machine of that name; did you mean v5e-16?\n"
    )
