"""Published formats built as ArrayRecord and read back, through the command and without TensorFlow."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pixelthink_jax import cli
from pixelthink_jax.data.pipeline import example_stream
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.data.targets import mask_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import load_image
from tests.data.sources.genuine import picture, shape, write_reasonseg, write_refcoco


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """ReasonSeg with three good rows, one of them with a rotation tag, and two broken ones."""
    root, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("out")
    square = shape("target", (1, 1), (9, 1), (9, 9))
    write_reasonseg(root / "val", "a", [square, shape("ignore", (4, 4), (5, 4), (5, 5))], "Où est l’été?")
    write_reasonseg(root / "val", "b", [square])
    write_reasonseg(root / "val", "c", [square])
    (root / "val" / "c.jpg").write_bytes(picture(50, 40, form="JPEG", orientation=6))
    write_reasonseg(root / "val", "d", [])
    write_reasonseg(root / "val", "e", [square])
    (root / "val" / "e.jpg").unlink()
    assert (
        cli.main(["prepare", "reasonseg", "--source", str(root), "--splits", "val", "--out", str(out)]) == 0
    )
    return root, out, out / "reasonseg" / "1.0.0"


def test_rows_come_back_as_they_were_and_broken_ones_are_listed(built):
    root, _, folder = built
    raw, stored = (
        open_source("reasonseg", path=root, split="val"),
        open_source("array_record", path=folder, split="val"),
    )
    assert len(stored) == 3
    for index in range(3):
        before, after = raw[index], stored[index]
        assert np.array_equal(before.image, after.image) and np.array_equal(before.mask, after.mask)
        assert after.mask.dtype == before.mask.dtype
        for name in ("id", "query", "solution", "difficulty", "level", "metadata"):
            assert getattr(before, name) == getattr(after, name), name
    broken = json.loads((folder / "broken_rows.json").read_text())["val"]
    assert "d.json: it has no polygons" in broken[0] and "e.jpg: no such image" in broken[1]


def test_what_the_command_says(built, tmp_path, capsys):
    root, out, folder = built
    flags = ["prepare", "reasonseg", "--source", str(root), "--splits", "val"]
    assert cli.main([*flags, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "val: 5 rows read, published: 200; 2 broken and left out" in printed
    assert "d.json: it has no polygons" in printed
    assert printed.startswith("built ")  # and no line of the library that builds
    assert cli.main([*flags, "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    for wrong, says in (
        (["prepare"], "name a dataset"),
        (["prepare", "own", "--out", str(tmp_path)], "--source is missing"),
        (["prepare", "reasonseg", "--source", str(root)], "--out is missing"),
        ([*flags, "--build-training", "--out", str(tmp_path)], "is for refcocog"),
    ):
        assert cli.main(wrong) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_a_split_of_broken_rows_is_refused(tmp_path, capsys):
    write_reasonseg(tmp_path / "val", "a", [])
    flags = [
        "prepare",
        "reasonseg",
        "--source",
        str(tmp_path),
        "--splits",
        "val",
        "--out",
        str(tmp_path / "o"),
    ]
    assert cli.main(flags) == 2
    assert "none of its 1 rows can be read" in capsys.readouterr().err


def test_tfds_and_grain_read_them_without_tensorflow(built):
    _, out, folder = built
    code = (
        "import sys, tensorflow_datasets as tfds;"
        f"rows = tfds.data_source('reasonseg', split='val', data_dir={str(out)!r});"
        "assert len(rows) == 3 and rows[1]['image'].shape == (40, 50, 3);"
        "from pixelthink_jax.data.sources import open_source;"
        f"assert open_source('array_record', path={str(folder)!r}, split='val')[0].mask is not None;"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    with example_stream(
        open_source("array_record", path=folder, split="val"), seed=0, num_epochs=1, batch_size=3
    ) as stream:
        assert sorted(row.id for row in next(stream)) == ["a", "b", "c"]


def test_an_unknown_split_of_a_built_dataset(built):
    with pytest.raises(InputError, match="no split 'test': expected one of val"):
        open_source("array_record", path=built[2], split="test")


def test_a_training_set_in_the_published_form(tmp_path, capsys):
    root = write_refcoco(tmp_path / "raw")
    flags = ["prepare", "refcocog", "--build-training", "--source", str(root), "--out", str(tmp_path / "o")]
    assert cli.main(flags) == 0
    rows = open_source("array_record", path=tmp_path / "o" / "refcocog_training" / "1.0.0", split="train")
    raw = open_source("refcocog", path=root)
    assert [rows[i].id for i in range(2)] == ["refcocog_1", "refcocog_2"]
    assert [rows[i].query for i in range(2)] == ["left cat", "a dog"]
    assert rows[0].image.shape == (840, 840, 3) and rows[0].solution == raw[0].solution
    assert rows[0].metadata["img_height"] == 40 and rows[0].metadata["img_width"] == 50
    assert mask_box(rows[0].mask) == (168, 105, 486, 503)
    original = load_image(picture(40, 50, form="JPEG"))
    assert abs(rows[0].image.mean() - original.mean()) < 2


@pytest.mark.parametrize("place", ["", "val"])
def test_inspect_names_the_format_and_the_config(built, place, capsys):
    root, _, folder = built
    assert cli.main(["prepare", "--inspect", str(root / place)]) == 0
    printed = capsys.readouterr().out
    assert (
        "ReasonSeg: pictures and polygons" in printed and "name: reasonseg" in printed and "shapes" in printed
    )
    assert cli.main(["prepare", "--inspect", str(folder)]) == 0
    assert "name: array_record" in capsys.readouterr().out
    assert cli.main(["prepare", "--inspect", "nowhere"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
