import os
import subprocess
import sys

import numpy as np
import pytest

from pixelthink_jax.data.pipeline import example_stream
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.shapes_builder import build_shapereason, read_shapereason
from pixelthink_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_shapereason(tmp_path_factory.mktemp("built"), {"train": 24, "ood": 5}, seed=4)


def test_stored_rows_equal_generated_ones_in_order(folder):
    for split, count in (("train", 24), ("ood", 5)):
        stored, world = read_shapereason(folder, split), ShapeReason(split, seed=4)
        assert len(stored) == count
        for i, row in enumerate(stored):
            made = world[i]
            assert np.array_equal(row.image, made.image) and np.array_equal(row.mask, made.mask)
            for name in (
                "id",
                "query",
                "solution",
                "difficulty",
                "level",
                "completion",
                "instruction",
                "metadata",
            ):
                assert getattr(row, name) == getattr(made, name)


def test_stored_rows_stream_through_grain(folder):
    stream = example_stream(read_shapereason(folder, "train"), seed=0, num_epochs=1, batch_size=6)
    names = [row.id for batch in stream for row in batch]
    assert sorted(names) == sorted(f"train-4-{i}" for i in range(24))


def test_tensorflow_is_never_loaded(folder):
    code = (
        "import sys; from pixelthink_jax.data.shapes_builder import read_shapereason;"
        f"assert 'tensorflow_datasets' not in sys.modules; read_shapereason({str(folder)!r}, 'ood')[0];"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    paths = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})


def test_mistakes_are_one_clear_error_each(folder, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        build_shapereason(folder.parents[1], {"ood": 1})
    with pytest.raises(InputError, match="expected one of"):
        build_shapereason(tmp_path, {"dev": 1})
    with pytest.raises(InputError, match="expected 1 to 500"):
        build_shapereason(tmp_path, {"ood": 501})
    with pytest.raises(InputError, match="no split 'test'"):
        read_shapereason(folder, "test")
    with pytest.raises(InputError, match="holds no built data set"):
        read_shapereason(tmp_path, "train")
