"""The TPU compiler on the programs of a small run, where libtpu is installed (`make test-compiler`)."""

import dataclasses
from pathlib import Path

import jax
import jaxtyping
import pytest

from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.plan import compiled as compiled_module
from pixelthink_jax.plan import make_plan, parse_topology
from pixelthink_jax.plan.shapes import run_shapes
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.runtime.mesh import MeshConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "plans"))


@pytest.fixture(autouse=True)
def shapes_in_place_of_arrays(monkeypatch):
    """Programs are lowered from shapes, which the checks of array types, on in tests alone, take for a mistake."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def config():
    tiny = load_config(TrainConfig, CONFIGS / "tiny.yaml")
    return dataclasses.replace(
        tiny,
        mesh=MeshConfig(1, 2, 2),
        sampling=SamplingConfig(max_new_tokens=256),
        micro_batches=2,
        unroll=False,
        remat="full",
        freeze_vision=False,
    )


def test_without_a_compiler_that_is_said(config, monkeypatch):
    monkeypatch.setattr("pixelthink_jax.plan.plan.compiler_version", lambda: None)
    with pytest.raises(InputError, match="topology v5e-4: no compiler for it here"):
        make_plan(config, parse_topology("v5e-4"), compiled=True)


def test_a_small_run_compiles_for_four_chips_and_is_remembered(config):
    pytest.importorskip("libtpu")
    topology = parse_topology("v5e-4")
    plan = make_plan(config, topology, compiled=True)
    assert plan.fits and plan.counted_by.startswith("compiler")
    programs = {program.name: program.executable for program in plan.programs}
    # The state is donated: what comes out takes the place of what went in, but for the metrics.
    update = programs["update"]
    assert 0 <= update.output_bytes - update.alias_bytes < 2**16
    # No chip holds whole what the table cuts: a half by fsdp and a half of that by tensor.
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(run_shapes(config).state))
    assert update.alias_bytes < 0.5 * state
    # Nothing as large as a layer's matrix moves while tokens are decoded.
    assert 0 < programs["decode"].largest_in_loops < 2**16
    assert {"all-gather", "all-reduce"} <= update.collectives.keys()
    again = make_plan(config, topology, compiled=True)
    assert all(program.from_cache for program in again.programs)
    assert again.phase_bytes == plan.phase_bytes


def test_a_program_that_does_not_fit_is_a_result(config, monkeypatch):
    pytest.importorskip("libtpu")
    large = dataclasses.replace(
        config, policy="Qwen2.5-VL-7B-Instruct", remat="none", mesh=MeshConfig(4, 1, 1)
    )
    only = compiled_module.step_programs
    monkeypatch.setattr(
        compiled_module, "step_programs", lambda *a: {"reshard the rest": only(*a)["reshard the rest"]}
    )
    plan = make_plan(large, parse_topology("v5e-4"), compiled=True)
    assert not plan.fits and plan.remedies
