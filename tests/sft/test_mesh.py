"""The same supervised run on one device and on four, of two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pixelthink_jax.config import to_tree
from pixelthink_jax.policy import Policy
from pixelthink_jax.runtime.run_log import read_log
from pixelthink_jax.sft.run import run_sft
from tests.sft.test_run import config, folder  # noqa: F401 - a fixture

DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"}


def test_a_run_on_a_mesh_of_two_processes_is_that_of_one_device(folder: Path) -> None:  # noqa: F811
    rows = {"tokens_per_batch": 4 * 64, "optim": {"learning_rate": 0.01, "warmup_steps": 2}}
    alone = run_sft(config(folder, "alone", **rows)).policy
    settings = to_tree(config(folder, "spread", **rows, mesh={"data": 1, "fsdp": 2, "tensor": 2}))
    (folder / "spread.yaml").write_text(yaml.safe_dump(settings))
    words = ["sft", "--config", str(folder / "spread.yaml"), "--processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "pixelthink_jax", *words],
        env={**os.environ, **DEVICES},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, other = (read_log(folder / name / "metrics.jsonl") for name in ("alone", "spread"))
    assert [row["step"] for row in other] == [row["step"] for row in first]
    for row, spread in zip(first, other, strict=True):
        assert spread["loss"] == pytest.approx(row["loss"], abs=1e-5), json.dumps(spread)
        assert spread["tokens"] == row["tokens"]
    spread = Policy.from_pretrained(folder / "spread" / "policy", dtype="float32")
    # By what they answer: the gradient of a bias of the keys is nothing but noise, which AdamW takes for a direction.
    prompt = alone.processor.prompt(np.asarray(Image.open(folder / "0.png")), "the cup")
    ids, images = (
        prompt.input_ids[None],
        np.asarray(alone.processor.pixel_values(alone.processor.batch([prompt]))),
    )
    grids = np.array([prompt.grid_thw])
    ours, theirs = (policy.logits(ids, np.ones_like(ids), images, grids) for policy in (alone, spread))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
