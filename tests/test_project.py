"""Checks of the project as a whole: what it declares, pins, ships and promises."""

import ast
import dataclasses
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pixelthink_jax
from pixelthink_jax.commands import doctor
from pixelthink_jax.config import load_config

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")

# Which dataclass reads a shipped config, by how its file name begins.
CONFIGS = {
    "sft": "pixelthink_jax.sft.config:SftConfig",
    "segmenter": "pixelthink_jax.train_segmenter.config:SegmenterConfig",
    "eval": "pixelthink_jax.evaluation.config:EvalConfig",
    "tiny": "pixelthink_jax.grpo.config:TrainConfig",
    "pixelthink": "pixelthink_jax.grpo.config:TrainConfig",
    "seg_zero": "pixelthink_jax.grpo.config:TrainConfig",
    "vision_reasoner": "pixelthink_jax.grpo.config:TrainConfig",
    "annotate": "pixelthink_jax.judge.config:AnnotateConfig",
    "ablation": "pixelthink_jax.sweep.config:SweepConfig",
}


def imported_modules(path: Path) -> set[str]:
    """First components of the absolute imports of a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def declared(*extras: str) -> list[Requirement]:
    """The dependencies of the package and of some of its extras, without the package itself."""
    lines = [
        *PROJECT["dependencies"],
        *(line for e in extras for line in PROJECT["optional-dependencies"][e]),
    ]
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if canonicalize_name(r.name) != "pixelthink-jax"]


def test_every_import_of_the_package_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in declared("judge", "wandb")}
    homes = importlib.metadata.packages_distributions()
    missing = set()
    for path in SOURCES:
        for module in imported_modules(path) - set(sys.stdlib_module_names) - {"pixelthink_jax"}:
            if not names & {canonicalize_name(home) for home in homes.get(module, [module])}:
                missing.add(f"{path.relative_to(ROOT)} imports {module}")
    assert not missing


def read_attributes(path: Path) -> set[str]:
    """Names of the attributes that a file reads anywhere but in `__post_init__`, where settings are only checked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [node for node in ast.walk(tree) if getattr(node, "name", None) == "__post_init__"]
    skipped = {id(node) for check in checks for node in ast.walk(check)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in skipped
    }


def settings_of(config: type, seen: set[type]) -> set[type]:
    """A config dataclass and those of its fields, however they are wrapped; not those of models, which keep what a
    folder says from import to export."""
    if (
        dataclasses.is_dataclass(config)
        and "pixelthink_jax.models" not in config.__module__
        and config not in seen
    ):
        seen.add(config)
        for hint in typing.get_type_hints(config).values():
            settings_of(hint, seen)
    for part in typing.get_args(config):
        settings_of(part, seen)
    return seen


@pytest.mark.parametrize("where", CONFIGS.values())
def test_every_config_key_is_read_somewhere(where):
    module, name = where.split(":")
    read = set().union(*map(read_attributes, SOURCES))
    for config in settings_of(getattr(importlib.import_module(module), name), set()):
        dead = {field.name for field in dataclasses.fields(config)} - read
        assert not dead, f"{config.__name__} has settings that nothing reads: {sorted(dead)}"


def test_the_package_never_imports_torch():
    assert not [path for path in SOURCES if imported_modules(path) & {"torch", "torchvision"}]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_dependency_has_one_true_pin(python):
    pins = {}
    for line in PINS.splitlines():
        requirement = Requirement(line) if line and not line.startswith("#") else None
        if requirement and (
            not requirement.marker or requirement.marker.evaluate({"python_version": python})
        ):
            assert requirement.name not in pins, f"{requirement.name} is pinned twice for Python {python}"
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    for requirement in declared("test", "parity", "dev", "judge", "wandb"):
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} has no pin for Python {python}"
        assert requirement.specifier.contains(pin), f"{requirement} excludes its own pin {pin}"


def test_pins_are_plain():
    assert not re.search(r"://|--hash|@", PINS)


def test_version_is_the_installed_one():
    assert importlib.metadata.version("pixelthink_jax") == pixelthink_jax.__version__


def test_public_names_resolve_whatever_was_imported_before():
    for module in pkgutil.walk_packages(pixelthink_jax.__path__, "pixelthink_jax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in pixelthink_jax.__all__:
        value = getattr(pixelthink_jax, name)
        assert value is not pixelthink_jax and type(value).__name__ != "module", f"a module hides {name}"


@pytest.mark.parametrize("name", ["segment", "train", "evaluate"])
def test_public_functions_share_no_name_with_a_module(name):
    """Importing a submodule sets its name on the package, over a function of that name."""
    folder = ROOT / "src" / "pixelthink_jax"
    assert not (folder / f"{name}.py").exists() and not (folder / name).exists()


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Polcy'"):
        _ = pixelthink_jax.Polcy


def test_import_is_light():
    code = "import sys, pixelthink_jax; print({'jax', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_loads_and_says_how_to_run_it(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kinds = [kind for kind in CONFIGS if path.stem.startswith(kind)]
    assert kinds, f"say in CONFIGS which dataclass reads {path.name}"
    module, name = CONFIGS[kinds[0]].split(":")
    load_config(getattr(importlib.import_module(module), name), path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    name = path.relative_to(ROOT)
    assert re.search(rf"^#\s+pixelthink [a-z-]+ (--config )?{name}", text, re.MULTILINE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_fit_on_a_screen_or_few(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 80, f"{node.name} is too long"


def test_annotations_stay_checkable():
    assert not [path for path in SOURCES if "from __future__ import annotations" in path.read_text("utf-8")]


def test_annotations_are_checked_in_tests():
    with pytest.raises(TypeCheckError, match="size"):
        doctor._gib("a gigabyte")
    assert doctor._gib(2**30) == "1.0 GiB"


def test_contributing_is_short():
    assert (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").count("\n") <= 60
