import os
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime import checkpoints as module
from pixelthink_jax.runtime.checkpoints import Checkpoints


def make_state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
        "half": (jnp.asarray(rng.normal(size=7), jnp.bfloat16), None),
        "step": jnp.int32(step),
    }


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_the_newest_comes_back_bit_for_bit(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path / "run", every=2)
    assert first.latest_step() is None
    for step in range(1, 8):
        first.save(step, make_state(step), {"position": {"chunk": [step, {"a": None}]}, "rate": 0.1})
    first.close()
    second = Checkpoints(tmp_path / "run", every=2)
    assert second.latest_step() == 6
    step, state, extra = second.restore(make_state(0))
    assert step == 6
    assert_same(state, make_state(6))
    assert extra == {"position": {"chunk": [6, {"a": None}]}, "rate": 0.1}
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [4, 6]
    second.save(7, make_state(7), {}, force=True)
    second.save(7, make_state(8), {}, force=True)  # a step is saved once
    second.close()
    third = Checkpoints(tmp_path / "run", every=2)
    assert_same(third.restore(make_state(0))[1], make_state(7))
    third.close()


@pytest.mark.parametrize("name", ["a**b", "seed[1]"])
def test_a_folder_whose_name_is_a_pattern_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run folder .*holds .*choose an out without"):
        Checkpoints(tmp_path / name, every=1)
    assert not (tmp_path / name).exists()


def test_a_save_cut_by_a_kill_is_not_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, make_state(1), {})
    checkpoints.close()
    whole = tmp_path / "checkpoints" / "1"
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert whole.is_dir()
    again = Checkpoints(tmp_path, every=1)
    assert again.restore(make_state(0))[0] == 1
    again.save(2, make_state(2), {})
    again.close()
    last = Checkpoints(tmp_path, every=1)
    assert_same(last.restore(make_state(0))[1], make_state(2))
    last.close()


def test_arrays_may_be_donated_while_the_save_goes_on(tmp_path: Path) -> None:
    @partial(jax.jit, donate_argnums=0)
    def update(state: jax.Array) -> jax.Array:
        return state * 1.5 + 1

    state = jnp.arange(3_000_000, dtype=jnp.float32)
    before = np.array(state)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, {"w": state}, {})
    for _ in range(5):
        state = update(state)
    state.block_until_ready()
    checkpoints.close()
    again = Checkpoints(tmp_path, every=1)
    _, restored, _ = again.restore({"w": state})
    again.close()
    np.testing.assert_array_equal(np.asarray(restored["w"]), before)


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_a_state_of_another_model_is_refused(tmp_path: Path, change: str) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, make_state(1), {})
    checkpoints.close()
    like = make_state(0)
    if change == "shape":
        like["kernel"] = jnp.zeros((3, 6))
    elif change == "missing":
        del like["kernel"]
    else:
        like["bias"] = jnp.zeros(2)
    again = Checkpoints(tmp_path, every=1)
    with pytest.raises(InputError, match="does not fit this run's model") as caught:
        again.restore(like)
    assert "\n" not in str(caught.value)
    again.close()


def make_noise(step: int) -> dict[str, Any]:
    """Larger than what describes it, and not to be compressed."""
    return {"w": jnp.asarray(np.random.default_rng(step).normal(size=50_000), jnp.float32)}


def describe(folder: Path) -> None:
    os.truncate(folder / "state" / "_METADATA", 30)


def biggest(folder: Path) -> Path:
    return max((each for each in folder.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size)


def cut(folder: Path) -> None:
    os.truncate(biggest(folder / "state"), 100)


def overwrite(folder: Path) -> None:
    file = biggest(folder / "state")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)


def lose(folder: Path) -> None:
    shutil.rmtree(folder / "state")


@pytest.mark.parametrize("damage", [cut, overwrite, lose, describe])
def test_a_damaged_checkpoint_is_named_with_the_one_before_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    for step in (1, 2):
        checkpoints.save(step, make_noise(step), {})
    checkpoints.close()
    damage(tmp_path / "checkpoints" / "2")
    again = Checkpoints(tmp_path, every=1)
    with pytest.raises(
        InputError, match=r"/2: damaged .*remove that folder to continue from step 1"
    ) as caught:
        again.restore(make_noise(0))
    assert "\n" not in str(caught.value)
    again.close()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    last = Checkpoints(tmp_path, every=1)
    assert_same(last.restore(make_noise(0))[1], make_noise(1))
    last.close()


def test_a_disk_that_is_full_in_the_middle_of_a_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Files above a size cannot be written, as on a full disk; what Orbax says differs in its last words only."""
    noise = make_noise(0)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, noise, {})
    checkpoints.save(2, noise, {})  # which waits for the first
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        checkpoints._manager.wait_until_finished()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        checkpoints.save(3, noise, {})
        with pytest.raises(
            InputError, match=r"cannot be written \(File too large\); step 2 is the newest"
        ) as caught:
            checkpoints.close()
        assert "\n" not in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    again = Checkpoints(tmp_path, every=1)
    step, state, _ = again.restore(noise)
    assert step == 2
    assert_same(state, noise)
    again.close()


def test_a_folder_that_not_all_processes_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the second of two processes whose disk is its own: the first has written its mark elsewhere."""
    monkeypatch.setattr(module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(module, "from_first", lambda work: ".seen-elsewhere")
    monkeypatch.setattr(module, "together", lambda work: work())
    monkeypatch.setattr(module, "_SEEN_WITHIN_SECONDS", 0.2)
    with pytest.raises(InputError, match="does not see what process 0 writes there; choose an out that all"):
        Checkpoints(tmp_path / "run", every=1)
    assert not (tmp_path / "run").exists()
