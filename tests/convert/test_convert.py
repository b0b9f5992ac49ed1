"""Conversions: the same bits both ways, strict, continued after a kill, hashed, and in little memory."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from pixelthink_jax import Policy, cli
from pixelthink_jax.config import to_tree
from pixelthink_jax.convert import convert, verify_checksums
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo import TrainConfig
from pixelthink_jax.models import qwen_vl, writing
from pixelthink_jax.runtime.array_folders import open_arrays, write_arrays
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.halves import split_halves
from pixelthink_jax.runtime.train_state import TrainState
from pixelthink_jax.segmentation.loading import TINY_POLICY, default_folder
from tests.runtime.store import store  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    """A policy in several files, its vocabulary not tied."""
    tiny = Policy.from_pretrained(default_folder(TINY_POLICY), dtype="float32")
    folder = tmp_path_factory.mktemp("policy") / "hf"
    head = np.random.default_rng(0).normal(size=tiny.params["text"]["embed"].shape).astype(np.float32)
    params = {**tiny.params, "text": {**tiny.params["text"], "lm_head": jnp.asarray(head)}}
    config = replace(tiny.config, tie_word_embeddings=False)
    qwen_vl.write_folder(folder, params, config, max_shard_bytes=1_000_000, extra=tiny.processor.save)
    return folder


@pytest.fixture(scope="module")
def orbax_folder(policy_folder):
    folder = policy_folder.with_name("orbax")
    convert(policy_folder, folder)
    return folder


def weights(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("model*"))}


def same_params(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_there_and_back_is_the_same_to_the_byte(policy_folder, orbax_folder, tmp_path, capsys):
    made = convert(orbax_folder, tmp_path / "back", max_shard_bytes=1_000_000)
    assert len(weights(policy_folder)) > 3
    assert weights(tmp_path / "back") == weights(policy_folder)
    read = Policy.from_pretrained(policy_folder, dtype=None)
    assert made.parameters == sum(leaf.size for leaf in jax.tree.leaves(read.params))
    # A run starts from either kind, and anyone's Orbax reads the parameters.
    loaded = Policy.from_pretrained(orbax_folder, dtype=None)
    same_params(loaded.params, read.params)
    assert loaded.processor.format == read.processor.format
    same_params(ocp.StandardCheckpointer().restore(orbax_folder / "params"), jax.device_get(read.params))
    assert cli.main(["convert", str(tmp_path / "back"), "--verify"]) == 0
    assert "files are as recorded" in capsys.readouterr().out


def test_another_dtype_is_cast_as_it_is_read(orbax_folder, tmp_path):
    convert(orbax_folder, tmp_path / "half", dtype="bfloat16")
    loaded, whole = (Policy.from_pretrained(f, dtype=None).params for f in (tmp_path / "half", orbax_folder))
    same_params(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), whole))


def test_shards_of_an_orbax_folder_are_read_by_slice(orbax_folder):
    mesh = jax.make_mesh((1, 2, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    spread = Policy.from_pretrained(orbax_folder, dtype=None, mesh=mesh)
    kernel = spread.params["text"]["blocks"]["mlp"]["down_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    same_params(spread.params, Policy.from_pretrained(orbax_folder, dtype=None).params)


class Killed(Exception):
    """Ends a conversion from outside."""


def test_a_killed_conversion_continues_and_another_begins_anew(
    policy_folder, orbax_folder, tmp_path, monkeypatch
):
    out, work = tmp_path / "out", tmp_path / ".out.partial"
    write = writing.write_tensors

    def killed_at(last):
        left = iter(range(last))

        def write_some(path, tensors, blocks):
            if next(left, None) is None:
                path.with_name(f"{path.name}.partial").write_bytes(b"half")
                raise Killed
            write(path, tensors, blocks)

        return write_some

    monkeypatch.setattr(writing, "write_tensors", killed_at(2))
    with pytest.raises(Killed):
        convert(orbax_folder, out, max_shard_bytes=1_000_000)
    assert not out.exists() and len(list(work.glob("*.safetensors"))) == 2
    times = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    monkeypatch.setattr(writing, "write_tensors", killed_at(2))
    with pytest.raises(Killed):
        convert(orbax_folder, out, max_shard_bytes=1_000_001)  # other settings: what was there is not kept
    again = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    assert again.keys() == times.keys() and all(again[name] != times[name] for name in times)
    monkeypatch.setattr(writing, "write_tensors", write)
    convert(orbax_folder, out, max_shard_bytes=1_000_001)
    assert all((out / name).stat().st_mtime_ns == time for name, time in again.items())
    assert not work.exists() and not list(out.glob("*.partial")) and verify_checksums(out) > 5
    assert weights(out) == weights(policy_folder)
    with pytest.raises(InputError, match="there is something already"):
        convert(orbax_folder, out)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "new"])
def test_damage_is_found_by_hash(orbax_folder, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(orbax_folder, folder)
    [path, *_] = sorted(folder.glob("params/ocdbt.process_0/d/*"))
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        (folder / "params" / "more").write_text("")
    with pytest.raises(InputError, match="copy or convert the folder again") as caught:
        verify_checksums(folder)
    assert "params/" in str(caught.value) and "\n" not in str(caught.value)


def test_an_orbax_folder_that_is_not_this_model_or_not_whole_is_refused(orbax_folder, tmp_path, capsys):
    leaves = open_arrays(orbax_folder / "params")
    wrong = {
        "has no parameter text/lm_head": {k: v for k, v in leaves.items() if k != "text/lm_head"},
        "unknown parameter text/more": leaves | {"text/more": leaves["text/embed"]},
        "another parameter text/embed of shape": leaves | {"text/embed": leaves["text/final_norm/scale"]},
    }
    for number, (words, held) in enumerate(wrong.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(orbax_folder / "config.json", folder)
        write_arrays(folder / "params", unflatten_dict(held, sep="/"))
        with pytest.raises(InputError, match=words):
            convert(folder, tmp_path / "never")
    shutil.copytree(orbax_folder, tmp_path / "torn")
    for path in (tmp_path / "torn").glob("params/ocdbt.process_0/d/*"):
        path.write_bytes(path.read_bytes()[:40])
    assert cli.main(["convert", str(tmp_path / "torn"), "--out", str(tmp_path / "never")]) == 2
    (tmp_path / "torn" / "params" / "_METADATA").unlink()
    assert cli.main(["convert", str(tmp_path / "torn"), "--out", str(tmp_path / "never")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "cannot be read" in errors[0] and "not a whole Orbax checkpoint" in errors[1] and len(errors) == 2
    assert not (tmp_path / "never").exists()


@pytest.fixture
def run(policy_folder, tmp_path):
    """A run in bfloat16 that left its vision tower alone, as its checkpoint has it."""
    config = TrainConfig(
        str(tmp_path / "run"),
        str(policy_folder),
        freeze_vision=True,
        dtype="bfloat16",
        export_dtype="float32",
    )
    start = flatten_dict(Policy.from_pretrained(policy_folder, dtype=None).params, sep="/")
    text = {path: leaf for path, leaf in start.items() if path.startswith("text/")}
    moved, halves = jax.jit(_moved)(text)
    high, low = (unflatten_dict({p: h[i] for p, h in halves.items()}, sep="/") for i in (0, 1))
    other = jax.jit(lambda tree: jax.tree.map(lambda x: x * 5, tree))(high)
    checkpoints = Checkpoints(config.out, every=1)
    for step, params in ((5, other), (6, high)):
        checkpoints.save(step, TrainState(params, {}, jnp.int32(step), low), {"config": to_tree(config)})
    checkpoints.close()
    return Path(config.out), moved


def _moved(params):
    """Parameters that bfloat16 does not hold, and their halves."""
    moved = {path: leaf + 1e-5 for path, leaf in params.items()}
    return moved, {path: split_halves(leaf) for path, leaf in moved.items()}


def test_a_run_gives_its_exact_master_and_what_it_did_not_train(run, policy_folder, tmp_path):
    out, moved = run
    convert(out, tmp_path / "exact")
    found = flatten_dict(Policy.from_pretrained(tmp_path / "exact", dtype=None).params, sep="/")
    start = flatten_dict(Policy.from_pretrained(policy_folder, dtype="bfloat16").params, sep="/")
    for path, leaf in found.items():
        expected = moved[path] if path in moved else start[path].astype(jnp.float32)
        np.testing.assert_array_equal(leaf, expected)
    convert(out, tmp_path / "orbax", to="orbax", step=5, dtype="bfloat16")
    fifth = open_arrays(tmp_path / "orbax" / "params")["text/embed"]
    high, _ = split_halves(moved["text/embed"])
    np.testing.assert_array_equal(fifth[()], np.asarray(high * 5))
    with pytest.raises(InputError, match="no checkpoint of step 4; there are 5, 6"):
        convert(out, tmp_path / "never", step=4)
    with pytest.raises(InputError, match="not a run that trained an adapter"):
        cli._run(["convert", str(out), "--out", str(tmp_path / "never"), "--adapter"])


def test_a_run_on_a_store_is_converted_from_there(run, store, tmp_path):  # noqa: F811
    run[0].rename(store / "run")
    convert("fake://run", tmp_path / "there")
    convert(store / "run", tmp_path / "here")
    assert weights(tmp_path / "there") == weights(tmp_path / "here")
    with pytest.raises(InputError, match="fake:.* writes to a folder of this machine"):
        convert("fake://run", "fake://converted")


def test_a_checkpoint_of_other_settings_than_it_says_is_refused(run, tmp_path):
    out, _ = run
    path = out / "checkpoints" / "6" / "extra" / "metadata"
    extra = json.loads(path.read_text())
    path.write_text(json.dumps({"config": extra["config"] | {"freeze_vision": False}}))
    with pytest.raises(InputError, match="lacks parameter vision/"):
        convert(out, tmp_path / "never")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name the run or the policy folder"),
        (["nothing"], "--out is missing"),
        (["nothing", "--out", "x"], "nothing: no such folder"),
        ([".", "--out", "x", "--step", "3"], "--step 3 goes with a run"),
        (["nothing", "--out", "x", "--shard-gigabytes", "0"], "must be positive"),
        (["nothing", "--verify"], "no checksums.json"),
    ],
)
def test_wrong_flags_are_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_two_hundred_million_parameters_need_less_than_twice_the_largest_tensor(tmp_path):
    told = subprocess.check_output(
        [sys.executable, "-m", "tests.convert.peak_memory", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        timeout=250,
    )
    shutil.rmtree(tmp_path / "medium")
    found = json.loads(told)
    assert found["parameters"] > 190e6
    assert found["growth"] < 2 * found["largest_tensor"]
