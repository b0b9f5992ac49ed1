"""One device and meshes of eight agree: tokens, losses, gradients, and where everything lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Mesh, prompts, micro-batches; in the last there are more chips than prompts, so groups are cut.
CASES = [[[1, 8, 1], 8, 1], [[2, 2, 2], 8, 1], [[2, 4, 1], 4, 2]]
AXES = ["data", "fsdp", "tensor"]


@pytest.fixture(scope="module")
def found():
    """What `eight_devices.py` prints, in a process of its own: this one has another number of devices."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.rl.eight_devices", json.dumps(CASES)],
        env={**os.environ, **flags, "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_sampled_tokens_are_the_same_and_their_logprobs_to_rounding(found):
    for case in found:
        assert case["tokens_differ"] == 0, case
        assert case["logprobs"] < 1e-5, case


def test_gradients_and_metrics_are_the_same(found):
    for case in found:
        assert case["gradient"] < 1e-5, case
        assert case["metrics"] < 1e-4, case  # relative, each to itself, those near zero too


def test_every_leaf_of_the_state_comes_out_where_the_table_says(found):
    assert [case["whole"] for case in found] == [[]] * len(CASES)


def test_groups_are_cut_only_where_there_are_more_chips_than_prompts(found):
    assert [case["axes"] for case in found] == [AXES] * 2 + [["data", "fsdp", "fsdp_group", "tensor"]]
