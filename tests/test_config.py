import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import yaml

from pixelthink_jax.config import from_tree, load_config, to_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.sft.config import SftConfig
from pixelthink_jax.train_segmenter.config import SegmenterConfig

CONFIGS = Path(__file__).parents[1] / "configs"
# What a file of `configs/` configures, by the beginning of its name.
KINDS = {"sft": SftConfig, "segmenter": SegmenterConfig}


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Run:
    out: str
    steps: int = 10
    rate: float = 1e-3
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    parts: tuple[Part, ...] = ()
    best: Part | None = None
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be positive, got {self.steps}")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(tmp_path: Path, text: str) -> str:
    """The error of a config, which must be one line that names the file."""
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_config(Run, path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_every_kind_of_value(tmp_path: Path) -> None:
    text = """
    out: runs/é
    rate: 1
    fast: true
    kind: b
    limit: null
    sizes: [1, 2]
    pair: [3, 4]
    parts: [{name: x}, {name: y, share: 1}]
    best: {name: z}
    weights: {u: 1, v: 0.5}
    """
    assert load_config(Run, write(tmp_path, text)) == Run(
        out="runs/é",
        rate=1.0,
        fast=True,
        kind="b",
        sizes=(1, 2),
        pair=(3, 4.0),
        parts=(Part("x"), Part("y", 1.0)),
        best=Part("z"),
        weights={"u": 1.0, "v": 0.5},
    )


@pytest.mark.parametrize(
    ("text", "value"), [("1e-5", 1e-5), ("1.0e-5", 1e-5), ("2E3", 2000.0), ("-1e+2", -100.0)]
)
def test_numbers_that_yaml_reads_as_text(tmp_path: Path, text: str, value: float) -> None:
    rate = load_config(Run, write(tmp_path, f"out: x\nrate: {text}")).rate
    assert rate == value
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("out: x\nstep: 3", ["'step'", "did you mean 'steps'"]),
        ("out: x\nzzz: 3", ["'zzz'", "valid keys are best, fast, kind"]),
        ("out: x\n1: 3", ["unknown key 1"]),
        ("out: x\nparts: [{name: a}, {nam: b}]", ["parts[1]", "'nam'", "did you mean 'name'"]),
        ("out: x\nparts: [{share: 1}]", ["parts[0]", "missing key 'name'"]),
        ("steps: 3", ["missing key 'out'"]),
        ("", ["missing key 'out'"]),
        ("out: x\nsteps: 3.0", ["steps", "3.0 (float)", "expected int"]),
        ("out: x\nsteps: '3'", ["steps", "'3' (str)", "expected int"]),
        ("out: x\nsteps: true", ["steps", "True (bool)", "expected int"]),
        ("out: x\nrate: fast", ["rate", "'fast'", "expected float"]),
        ("out: x\nrate: true", ["rate", "True", "expected float"]),
        ("out: x\nfast: 1", ["fast", "expected bool"]),
        ("out: 3", ["out", "expected str"]),
        ("out: null", ["out"]),
        ("out: x\nkind: c", ["kind", "'c'", "'a', 'b'"]),
        ("out: x\nsizes: 3", ["sizes", "expected a list"]),
        ("out: x\nsizes: [1, a]", ["sizes[1]", "'a'", "expected int"]),
        ("out: x\npair: [1, 2, 3]", ["pair", "3 values", "expected 2"]),
        ("out: x\nlimit: a", ["limit", "expected int"]),
        ("out: x\nbest: 3", ["best", "expected a mapping"]),
        ("out: x\nweights: [1]", ["weights", "expected a mapping"]),
        ("out: x\nweights: {u: a}", ["weights.u", "expected float"]),
        ("out: x\nsteps: 0", ["steps must be positive"]),
        ("- out", ["expected a mapping"]),
        ("out: x\nout: y", ["'out' is there twice"]),
        ("out: x\nbest: {name: a, name: b}", ["'name' is there twice"]),
        ("out: [", ["not valid YAML"]),
        ("out: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
    ],
)  # fmt: skip
def test_errors_say_where_and_what(tmp_path: Path, text: str, parts: list[str]) -> None:
    line = message(tmp_path, text)
    for part in parts:
        assert part in line


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_config(Run, tmp_path / "none.yaml")
    with pytest.raises(InputError, match="no such file"):
        load_config(Run, tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes("out: é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(Run, path)


def test_merge_keys_may_repeat(tmp_path: Path) -> None:
    text = "best: &base {name: a, share: 0.1}\nout: x\nparts: [{<<: *base, name: b}]"
    assert load_config(Run, write(tmp_path, text)).parts == (Part("b", 0.1),)


def test_trees_and_back() -> None:
    run = Run("x", parts=(Part("a"), Part("b", 0.25)), best=Part("c"), weights={"u": 1.0}, limit=3)
    assert from_tree(Run, yaml.safe_load(yaml.safe_dump(to_tree(run)))) == run


def shipped() -> list[Path]:
    return sorted(path for path in CONFIGS.glob("*.yaml") if path.stem.split("_")[0] in KINDS)


def test_there_are_shipped_configs() -> None:
    assert {path.stem.split("_")[0] for path in shipped()} == set(KINDS)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    kind = KINDS[path.stem.split("_")[0]]
    config = load_config(kind, path)
    assert from_tree(kind, yaml.safe_load(yaml.safe_dump(to_tree(config)))) == config
