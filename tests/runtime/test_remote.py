"""Folders on an object store: read by copy, written by mirror."""

import os

import pytest

from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime import remote
from pixelthink_jax.runtime.checkpoints import Checkpoints, local_run, open_checkpoint
from pixelthink_jax.runtime.remote import local_copy, mirrored
from tests.runtime.store import store  # noqa: F401 - a fixture


def test_a_folder_is_copied_once_and_again_when_it_has_changed(store):  # noqa: F811
    (store / "bucket" / "policy" / "deep").mkdir(parents=True)
    (store / "bucket" / "policy" / "config.json").write_text("{}")
    (store / "bucket" / "policy" / "deep" / "weights").write_bytes(bytes(range(256)))
    folder = local_copy("fake://bucket/policy")
    assert folder.name == "policy" and (folder / "deep" / "weights").read_bytes() == bytes(range(256))
    before = (folder / "config.json").stat().st_mtime_ns
    (store / "bucket" / "policy" / "deep" / "weights").write_bytes(b"more")
    assert local_copy("fake://bucket/policy") == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert (folder / "deep" / "weights").read_bytes() == b"more"
    (store / "bucket" / "policy" / "deep" / "weights").write_bytes(b"MORE")  # the same size, a second later
    os.utime(store / "bucket" / "policy" / "deep" / "weights", (2e9, 2e9))
    assert (local_copy("fake://bucket/policy") / "deep" / "weights").read_bytes() == b"MORE"
    with pytest.raises(InputError, match="nothing is there"):
        local_copy("fake://bucket/gone")


def test_rows_are_read_from_a_store(store):  # noqa: F811
    (store / "rows.jsonl").write_text('{"image": "gone.png", "query": "the cup", "solution": "x"}\n')
    assert len(open_source("jsonl", path="fake://rows.jsonl")) == 1


def test_what_a_run_writes_is_there_and_comes_back(store, monkeypatch):  # noqa: F811
    monkeypatch.setattr(remote, "_EVERY_SECONDS", 0.02)
    with pytest.raises(KeyError), mirrored("fake://bucket/run") as folder:
        (folder / "log.jsonl").write_text("1\n")
        (folder / ".half").mkdir()
        (folder / ".half" / "weights").write_text("half")
        while not (store / "bucket" / "run" / "log.jsonl").exists():
            pass
        (folder / "policy").mkdir()
        (folder / "policy" / "config.json").write_text("{}")
        raise KeyError
    assert not folder.exists()
    with mirrored("fake://bucket/run") as folder:
        assert sorted(path.name for path in folder.rglob("*")) == ["log.jsonl"]
        (folder / "log.jsonl").write_text("1\n2\n")
        (folder / "unfinished.jsonl").write_text("1\n")
    with mirrored("fake://bucket/run") as folder:
        (folder / "unfinished.jsonl").unlink()
    found = sorted(path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())
    assert found == ["bucket/run/log.jsonl", "bucket/run/policy/config.json"]
    assert (store / "bucket" / "run" / "log.jsonl").read_text() == "1\n2\n"


def test_checkpoints_are_written_in_place(store):  # noqa: F811
    import jax.numpy as jnp

    checkpoints = Checkpoints("fake://bucket/run", every=1)
    for step in (1, 2):
        checkpoints.save(step, {"x": jnp.arange(3)}, {})
    checkpoints.close()
    assert (store / "bucket" / "run" / "checkpoints" / "2").is_dir()
    (store / "bucket" / "run" / "policy").mkdir()
    copy = local_run("fake://bucket/run")
    assert [path.name for path in copy.iterdir()] == ["checkpoints"]
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["2"]
    assert open_checkpoint(copy)[0] == 2
    assert open_checkpoint(local_run("fake://bucket/run", 1), 1)[0] == 1


@pytest.mark.parametrize("url", ["gs://nobodys-bucket/run", "nothing://bucket/run"])
def test_a_store_that_cannot_be_reached_is_one_line(url):
    for use in (local_copy, lambda url: Checkpoints(url, every=1)):
        with pytest.raises(InputError, match=r"cannot be reached .* install the package") as caught:
            use(url)
        assert "\n" not in str(caught.value)
