"""One device and meshes of eight agree: tokens, losses, gradients, masks, and where everything lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Mesh, prompts, micro-batches, what is compared beside rollout and update; in the last there are more chips than
# prompts, so groups are cut. These cut every axis; other meshes are compared by calling `eight_devices.py` with them.
CASES = [[[2, 2, 2], 8, 1, ["segmentation"]], [[2, 4, 1], 4, 2, []]]
PROGRAMS = [[1, 2, 4]]
pytestmark = pytest.mark.timeout(600)
AXES = ["data", "fsdp", "tensor"]


@pytest.fixture(scope="module")
def printed():
    """What `eight_devices.py` prints, in a process of its own: this one has another number of devices."""
    # Quick to compile rather than quick to run.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.rl.eight_devices", json.dumps(CASES), json.dumps(PROGRAMS)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def found(printed):
    """Of each case, the largest differences from one device."""
    return [line for line in printed if "program" not in line]


@pytest.fixture(scope="module")
def compiled(printed):
    """Of some meshes, what the programs of a larger model look like."""
    return [line for line in printed if "program" in line]


def test_sampled_tokens_are_the_same_and_their_logprobs_to_rounding(found):
    for case in found:
        # The two likeliest tokens are never closer than rounding, so that no near-tie excuses a difference.
        assert case["smallest_gap"] > 1e-6, case
        assert case["tokens_differ"] == 0, case
        assert case["logprobs"] < 1e-5, case


def test_gradients_and_metrics_are_the_same(found):
    for case in found:
        assert case["gradient"] < 1e-5, case
        assert case["metrics"][0] < 1e-5, case


def test_masks_are_the_same(found):
    logits, pixels = found[0]["segmentation"]
    assert (logits < 1e-5, pixels) == (True, 0)


def test_every_leaf_of_the_state_comes_out_where_the_table_says(found):
    assert [case["whole"] for case in found] == [[]] * len(CASES)


def test_groups_are_cut_only_where_there_are_more_chips_than_prompts(found):
    assert [case["axes"] for case in found] == [AXES] + [["data", "fsdp", "fsdp_group", "tensor"]]


def test_no_decode_loop_gathers_anything_as_large_as_a_matrix(compiled):
    for program in compiled:
        assert program["seen"] == 4 * 64 * 64  # a gather of a matrix in a loop would be found
        assert program["gathered"] < program["smallest"], program


def test_the_gradient_of_the_head_does_not_travel_between_chunks_of_positions(compiled):
    for program in compiled:
        assert program["between_chunks"] < program["head"] / 64, program


def test_no_large_tensor_of_the_compiled_update_is_replicated_against_the_table(compiled):
    assert compiled[0]["cut"] > 20
    assert compiled[0]["not_as_said"] == []
