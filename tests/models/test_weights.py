"""Model folders and tables: slices into shards, strictness both ways, and every way a folder can be wrong."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import save_file

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.weights import (
    CONV2D,
    CONV_TO_DENSE,
    IDENTITY,
    TRANSPOSE,
    ArraySource,
    SafetensorsFolder,
    TensorSpec,
    Transform,
    atomic_folder,
    group_by_leaf,
    read_config,
    read_params,
    tensor_names,
)
from pixelthink_jax.models.writing import write_params

TABLE = [
    TensorSpec("stem.weight", "stem/kernel", (4, 3, 2, 2), CONV_TO_DENSE),
    TensorSpec("conv.weight", "conv/kernel", (6, 2, 3, 3), CONV2D),
    *(TensorSpec(f"layers.{i}.weight", "blocks/kernel", (6, 4), TRANSPOSE, layer=i) for i in range(4)),
    *(TensorSpec(f"layers.{i}.bias", "blocks/bias", (6,), layer=i) for i in range(4)),
    TensorSpec("scalar", "scalar", ()),
]


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {spec.name: np.asarray(rng.normal(size=spec.shape)).astype(dtype) for spec in TABLE}


@pytest.fixture
def folder(tmp_path):
    save_file(arrays(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_every_leaf_is_the_tensor_it_names(folder):
    params, stored = read_params(SafetensorsFolder(folder), TABLE), arrays()
    np.testing.assert_array_equal(params["stem"]["kernel"], stored["stem.weight"].reshape(4, 12).T)
    np.testing.assert_array_equal(params["conv"]["kernel"], stored["conv.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["blocks"]["kernel"][2], stored["layers.2.weight"].T)
    np.testing.assert_array_equal(params["blocks"]["bias"][3], stored["layers.3.bias"])
    assert params["scalar"] == stored["scalar"]


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("blocks/kernel", ("x", None, None)),
        ("blocks/kernel", (None, "x", None)),
        ("blocks/kernel", (None, None, "x")),
        ("stem/kernel", ("x", None)),
        ("stem/kernel", (None, "x")),
        ("conv/kernel", (None, None, "x", None)),
    ],
)
def test_shards_read_their_part(path, spec, folder):
    """Each device asks for its own slice of the file and for nothing else."""
    mesh = Mesh(np.array(jax.devices()), ("x",))
    source = SafetensorsFolder(folder)
    whole = read_params(source, TABLE)
    sizes: list[int] = []
    read = source.read
    source.read = lambda name, index: sizes.append((part := read(name, index)).size) or part
    cut = NamedSharding(mesh, PartitionSpec(*spec))
    everywhere = NamedSharding(mesh, PartitionSpec())
    sharded = read_params(source, TABLE, sharding_for=lambda name, shape: cut if name == path else everywhere)
    jax.tree.map(np.testing.assert_array_equal, sharded, whole)
    leaf = sharded[path.split("/")[0]]["kernel"]
    assert leaf.sharding == cut and leaf.addressable_shards[0].data.size == leaf.size // len(jax.devices())
    stored = sum(array.size for array in arrays().values())
    # A flattened tensor cut along its flattened axis is read once for each device.
    assert sum(sizes) == stored + (leaf.size if (path, spec) == ("stem/kernel", ("x", None)) else 0)


@pytest.mark.parametrize(("asked", "expected"), [(None, jnp.bfloat16), ("float32", jnp.float32)])
def test_dtype(asked, expected, tmp_path):
    stored = arrays(jnp.bfloat16)
    save_file(stored, tmp_path / "model.safetensors")
    params = read_params(SafetensorsFolder(tmp_path), TABLE, dtype=asked)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(expected)}
    np.testing.assert_array_equal(params["blocks"]["kernel"][1], stored["layers.1.weight"].T.astype(expected))


@pytest.mark.parametrize("limit", [10**9, 300, 1])
def test_write_and_read_again(limit, tmp_path):
    params = read_params(ArraySource(arrays(), "test"), TABLE)
    write_params(tmp_path, params, TABLE, max_shard_bytes=limit)
    assert sorted(tensor_names(tmp_path)) == sorted(arrays())
    jax.tree.map(np.testing.assert_array_equal, read_params(SafetensorsFolder(tmp_path), TABLE), params)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == {10**9: 1, 300: 4, 1: len(TABLE)}[limit]
    for file in files:
        with safe_open(file, "np") as opened:
            assert opened.metadata() == {"format": "pt"}
    if limit != 10**9:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays().values())
        assert set(index["weight_map"]) == set(arrays())


@given(st.permutations(range(4)), st.booleans())
def test_transform_is_reversible(axes, flatten):
    shape = (2, 3, 4, 5)
    transform = Transform(flatten=flatten, axes=(1, 0) if flatten else tuple(axes))
    spec = TensorSpec("x", "x", shape, transform)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours = np.asarray(read_params(ArraySource({"x": array}, "test"), [spec])["x"])
    assert ours.shape == spec.tree_shape
    np.testing.assert_array_equal(transform.to_file(ours, shape), array)


def test_tree_and_table_must_fit(tmp_path):
    params = read_params(ArraySource(arrays(), "test"), TABLE)
    with pytest.raises(ValueError, match="leaf extra is not in the table"):
        write_params(tmp_path, params | {"extra": jnp.ones(1)}, TABLE)
    with pytest.raises(ValueError, match="no leaf stem/kernel"):
        write_params(tmp_path, {**params, "stem": {}}, TABLE)
    with pytest.raises(ValueError, match="scalar has shape"):
        write_params(tmp_path, params | {"scalar": jnp.ones(2)}, TABLE)
    with pytest.raises(ValueError, match=re.escape("layers [0, 2]")):
        group_by_leaf([TensorSpec("a", "a", (1,), IDENTITY, 0), TensorSpec("b", "a", (1,), IDENTITY, 2)])


def renamed(old, new):
    return {new if name == old else name: array for name, array in arrays().items()}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({k: v for k, v in arrays().items() if k != "layers.3.bias"}, "missing tensor layers.3.bias"),
        (arrays() | {"lora.weight": np.ones(3, np.float32)}, "unknown tensor lora.weight"),
        (
            arrays() | {"layers.1.weight": np.ones((4, 6), np.float32)},
            r"layers.1.weight has shape \[4, 6\].*\[6, 4\]",
        ),
        (arrays() | {"scalar": np.ones((), np.int8)}, "scalar has dtype I8"),
        ({k: v for k, v in arrays().items() if "layers" not in k}, "and 5 more"),
    ],
)
def test_wrong_tensors(stored, message, tmp_path):
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        read_params(SafetensorsFolder(tmp_path), TABLE)


def test_tensors_ignored_by_name(tmp_path):
    save_file(arrays() | {"memory.0.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    read_params(SafetensorsFolder(tmp_path), TABLE, ignore=["memory.*"])
    with pytest.raises(InputError, match=r"unknown tensor memory.0.weight"):
        read_params(SafetensorsFolder(tmp_path), TABLE, ignore=["memory"])


def test_the_same_tensor_under_two_names(tmp_path):
    save_file(arrays() | {"model.scalar": np.ones((), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="appears twice"):
        SafetensorsFolder(tmp_path, rename=lambda name: name.removeprefix("model."))


def test_wrong_folders(folder):
    """Each is one line that names the thing and says what to do."""
    cases = {
        folder / "absent": "no such folder; give",
        folder / "config.json": "a file, not a folder; give",
    }
    empty = folder / "empty"
    empty.mkdir()
    cases[empty] = r"it has no \*.safetensors; give"
    pickled = folder / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    cases[pickled] = "holds pytorch_model.bin but no safetensors.*save_pretrained"
    for path, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            SafetensorsFolder(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(InputError, match="it has no config.json; give"):
        read_config(empty)


def test_missing_shard(tmp_path):
    params = read_params(ArraySource(arrays(), "test"), TABLE)
    write_params(tmp_path, params, TABLE, max_shard_bytes=300)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(InputError, match="shard model-00002-of-00004.safetensors is missing"):
        SafetensorsFolder(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="3 of 4 safetensors shards"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 200, -3])
def test_truncated_file(kept, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="model.safetensors: damaged or truncated"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_damaged_config(text, folder):
    (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match="config.json"):
        read_config(folder)


def test_index_without_a_map(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="no weight_map"):
        SafetensorsFolder(folder)


def test_atomic_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "a" / "out") as fresh:
        (fresh / "config.json").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "config.json").read_text() == "1"
    with atomic_folder(tmp_path / "a" / "out") as fresh:
        (fresh / "config.json").write_text("2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "config.json").read_text() == "2"


def test_atomic_folder_leaves_nothing_half_written(folder):
    with pytest.raises(KeyError), atomic_folder(folder) as fresh:
        (fresh / "model.safetensors").write_text("half")
        raise KeyError
    assert len(tensor_names(folder)) == len(TABLE)
    with pytest.raises(KeyError), atomic_folder(folder / "new"):
        raise KeyError
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_atomic_folder_keeps_what_is_no_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty and not a model folder"), atomic_folder(tmp_path):
        pass
    with pytest.raises(InputError, match="a file"), atomic_folder(tmp_path / "thesis.txt"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
