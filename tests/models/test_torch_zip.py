"""The restricted reader of `.pt` files: what it reads, and what it refuses without running it."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.torch_zip import read_torch_zip, state_dict


class Tensor:
    """Pickles as torch pickles a tensor: a view of a numbered storage."""

    def __init__(self, storage, *, offset=0, size=None, stride=None, kind="FloatStorage", elements=None):
        self.storage = np.ascontiguousarray(storage)
        self.size = self.storage.shape if size is None else size
        self.stride = (
            tuple(s // self.storage.itemsize for s in self.storage.strides) if stride is None else stride
        )
        self.offset, self.kind = offset, kind
        self.elements = self.storage.size if elements is None else elements


class StorageReference:
    def __init__(self, pid):
        self.pid = pid


@pytest.fixture
def torch_names(monkeypatch):
    """Functions and classes that pickle under torch's names, without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in ((torch, ("FloatStorage", "BFloat16Storage", "LongStorage", "ComplexFloatStorage")),
                          (utils, ("_rebuild_tensor_v2", "_rebuild_parameter"))):  # fmt: skip
        for name in names:
            made = type(name, (), {"__module__": module.__name__})
            setattr(module, name, made)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return torch, utils


@pytest.fixture
def save(tmp_path, torch_names):
    """Writes a checkpoint as `torch.save` does; returns its path."""
    torch, utils = torch_names

    def write(value, *, protocol=2, byteorder=b"little", name="model", compression=zipfile.ZIP_STORED):
        storages: list[np.ndarray] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                return obj.pid if isinstance(obj, StorageReference) else None

            def reducer_override(self, obj):
                if not isinstance(obj, Tensor):
                    return NotImplemented
                storages.append(obj.storage)
                kind = getattr(torch, obj.kind)
                reference = StorageReference(("storage", kind, str(len(storages) - 1), "cpu", obj.elements))
                arguments = (reference, obj.offset, obj.size, obj.stride, False, OrderedDict())
                return utils._rebuild_tensor_v2, arguments

        program = io.BytesIO()
        Pickler(program, protocol).dump(value)
        path = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(f"{name}/data.pkl", program.getvalue())
            archive.writestr(f"{name}/byteorder", byteorder)
            for number, storage in enumerate(storages):
                archive.writestr(f"{name}/data/{number}", storage.tobytes())
            archive.writestr(f"{name}/version", b"3\n")
        return path

    return write


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_tensors_and_plain_values(save, protocol):
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    # Protocol 2 has no instruction for bytes and writes a call, which is refused like any other.
    plain = b"bytes" if protocol > 2 else "more text"
    tree = {
        "model": OrderedDict(
            a=Tensor(weights),
            transposed=Tensor(weights, size=(4, 3), stride=(1, 4)),
            part=Tensor(weights, offset=5, size=(2, 2), stride=(4, 1)),
            scalar=Tensor(np.float32(2.5), size=(), stride=()),
            empty=Tensor(np.zeros((0, 3), np.float32), size=(0, 3), stride=(3, 1)),
            whole=Tensor(np.array([7, -1]), kind="LongStorage"),
        ),
        "epoch": 3,
        "other": [1.5, "text", None, True, (1, 2), {"k": plain}],
    }
    read = read_torch_zip(save(tree, protocol=protocol))
    assert read["epoch"] == 3
    assert read["other"] == [1.5, "text", None, True, [1, 2], {"k": plain}]
    tensors = state_dict(read, where="file")
    np.testing.assert_array_equal(tensors["a"], weights)
    np.testing.assert_array_equal(tensors["transposed"], weights.T)
    np.testing.assert_array_equal(tensors["part"], [[5, 6], [9, 10]])
    np.testing.assert_array_equal(tensors["whole"], [7, -1])
    assert tensors["scalar"] == 2.5
    assert tensors["empty"].shape == (0, 3)
    assert not tensors["a"].flags.writeable


def test_reads_bfloat16(save):
    import ml_dtypes

    stored = np.array([1.5, -2.0, 3.25], ml_dtypes.bfloat16)
    read = read_torch_zip(save({"a": Tensor(stored, kind="BFloat16Storage")}))
    np.testing.assert_array_equal(read["a"].astype(np.float32), [1.5, -2.0, 3.25])


class Runs:
    """What a hostile checkpoint carries."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_code_is_refused_by_name_and_not_run(save, tmp_path):
    mark = tmp_path / "ran"
    for function, arguments in (
        (os.mkdir, (str(mark),)),
        (eval, (f"__import__('os').mkdir({str(mark)!r})",)),
    ):
        path = save({"a": Runs(function, *arguments)})
        with pytest.raises(InputError, match=f"names .*{function.__name__}; only plain tensors") as error:
            read_torch_zip(path)
        assert "\n" not in str(error.value)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": np.zeros(2)}, "names numpy"),
        ({"a": types.SimpleNamespace(b=1)}, "names types.SimpleNamespace"),
        (
            {"a": Tensor(np.zeros(2, np.complex64), kind="ComplexFloatStorage")},
            "names torch.ComplexFloatStorage",
        ),
        ({"a": Tensor(np.zeros(4, np.float32), size=(2, 4), stride=(4, 1))}, "reaches past its storage of 4"),
        ({"a": Tensor(np.zeros(4, np.float32), offset=-1)}, "offset -1"),
        ({"a": Tensor(np.zeros(4, np.float32), size=(4,), stride=(-1,))}, "strides"),
        ({"a": Tensor(np.zeros(4, np.float32), elements=4000)}, "16 bytes, 16000 expected"),
        ({"a": Tensor(np.zeros(4, np.float32), size=[4])}, "sizes"),
        ([1, 2], "holds a list"),
        (bytearray(b"12"), "bytearray|BYTEARRAY"),
    ],
)
def test_anything_else_is_refused(save, value, message):
    with pytest.raises(InputError, match=message):
        read_torch_zip(save(value))


def test_altering_a_word_of_the_machine_is_refused(tmp_path):
    """BUILD on the stand-in of a function, which would set attributes on it."""
    program = b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x01\x00\x00\x00aK\x01sb."
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
    with pytest.raises(InputError, match="alters a tensor or a type"):
        read_torch_zip(path)


def test_references_to_a_small_list_do_not_explode(save):
    laughs: list = ["ha"]
    for _ in range(12):
        laughs = [laughs] * 10
    with pytest.raises(InputError, match="nested more than"):
        read_torch_zip(save({"a": laughs}))


@pytest.mark.parametrize(
    "program", [b"", b"\x80\x02", b"\x80\x02}q\x00.garbage", b"\x80\x02K\x01R.", b"cos\nsystem\n.", b"\xff"]
)
def test_malformed_pickles_are_refused(tmp_path, program):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
    if program.endswith(b"garbage"):
        assert read_torch_zip(path) == {}  # what follows STOP is never reached
    else:
        with pytest.raises(InputError, match="refused"):
            read_torch_zip(path)


def test_damaged_files(save, tmp_path):
    good = save({"a": Tensor(np.arange(1000, dtype=np.float32))})
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(good.read_bytes()[:-1500])
    with pytest.raises(InputError, match="truncated"):
        read_torch_zip(truncated)
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(InputError, match="not a PyTorch zip checkpoint"):
        read_torch_zip(text)
    with pytest.raises(InputError, match="no such file"):
        read_torch_zip(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="compressed"):
        read_torch_zip(save({"a": 1}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="big"):
        read_torch_zip(save({"a": 1}, byteorder=b"big"))
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"without one data\.pkl"):
        read_torch_zip(tmp_path / "plain.pt")


def test_state_dict_needs_tensors():
    with pytest.raises(InputError, match="no dictionary of tensors"):
        state_dict({"model": {"a": 1}}, where="x.pt")
    with pytest.raises(InputError, match="no dictionary of tensors"):
        state_dict({}, where="x.pt")
