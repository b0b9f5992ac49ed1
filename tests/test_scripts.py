"""The scripts for pods: their syntax, their help, and that what they call exists."""

import dataclasses
import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pixelthink_jax.cli import COMMANDS

FOLDER = Path(__file__).parents[1] / "scripts"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def called(text: str) -> list[tuple[str, set[str]]]:
    """Every `pixelthink COMMAND` of a text and the flags that follow it on its line."""
    calls = re.findall(r"""(?<![\w`])pixelthink"? ([a-z-]+)([^;|\n]*)""", text)
    return [(name, set(re.findall(r"--([a-z][a-z-]*)", flags))) for name, flags in calls]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_helps(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)
    told = subprocess.run(["bash", path, "--help"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("usage: ") and "example:" in told


def test_a_setting_that_is_missing_is_named():
    bare = {"PATH": os.environ["PATH"], "NAME": "x"}
    told = subprocess.run(
        ["bash", FOLDER / "tpu_vm.sh", "launch"], capture_output=True, text=True, env=bare, check=False
    )
    assert told.returncode == 2 and told.stderr.startswith("ZONE is not set")


def test_flags_that_are_passed_exist():
    manifest = yaml.safe_load((FOLDER / "gke_jobset.yaml").read_text())
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    [container] = job["template"]["spec"]["containers"]
    texts = [" ".join(container["command"]), *(path.read_text() for path in SCRIPTS)]
    calls = [call for text in texts for call in called(text)]
    assert {name for name, _ in calls} >= {"train", "doctor"} and len(calls) >= 4
    for name, flags in calls:
        assert name in COMMANDS
        args = importlib.import_module(f"pixelthink_jax.commands.{name.replace('-', '_')}").Args
        known = {field.name.replace("_", "-") for field in dataclasses.fields(args)}
        assert flags <= known, f"{name} has no {sorted(flags - known)}"
