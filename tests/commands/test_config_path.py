"""Where a command's `--config` is found."""

from pathlib import Path

import pytest

from pixelthink_jax import commands


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        ([], None),
        (["--config"], None),
        (["--configs", "a.yaml"], None),
        (["--out", "--config", "a.yaml"], Path("a.yaml")),
        (["--config=a.yaml", "--seed", "1"], Path("a.yaml")),
        (["--config", "configs/unknown.yaml"], Path("configs/unknown.yaml")),
    ],
)
def test_reads_the_flag(argv, path):
    assert commands.config_path(argv) == path


def test_an_installed_package_brings_its_configs(tmp_path, monkeypatch):
    package, elsewhere = tmp_path / "package", tmp_path / "elsewhere"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "tiny.yaml").touch()
    elsewhere.mkdir()
    monkeypatch.setattr(commands.resources, "files", lambda name: package)
    monkeypatch.chdir(elsewhere)
    assert commands.config_path(["--config", "configs/tiny.yaml"]) == package / "configs" / "tiny.yaml"

    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "tiny.yaml").touch()
    assert commands.config_path(["--config", "configs/tiny.yaml"]) == Path("configs/tiny.yaml")
