"""A checkpoint that is tried for real leaves nothing, not even folders."""

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.checkpoint_trial import passing_folder, try_checkpoint
from pixelthink_jax.runtime.checkpoints import Checkpoints


def test_a_checkpoint_is_written_read_and_removed(tmp_path):
    assert "MiB/s" in try_checkpoint(str(tmp_path / "new" / "runs"))
    assert not (tmp_path / "new" / "runs").exists()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "thesis.txt").write_text("years of work")
    try_checkpoint(str(tmp_path / "here"))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="no checkpoint can be written, read and removed there"):
        try_checkpoint(str(tmp_path / "here" / "thesis.txt"))


def test_a_checkpoint_that_comes_back_otherwise_is_a_failure(tmp_path, monkeypatch):
    restore = Checkpoints.restore
    monkeypatch.setattr(
        Checkpoints, "restore", lambda self, like: (*restore(self, like)[:2], {"tried": False})
    )
    with pytest.raises(InputError, match="is not the one that was written"):
        try_checkpoint(str(tmp_path))


def test_a_folder_that_somebody_fills_meanwhile_stays(tmp_path):
    with passing_folder(str(tmp_path / "runs" / "deep" / "mine")) as place:
        Checkpoints(place, every=1).close()
        (tmp_path / "runs" / "thesis.txt").write_text("years of work")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["runs", "thesis.txt"]
