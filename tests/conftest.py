"""What every test runs under: CPU devices, strict shapes, no network, reproducible hypothesis."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import pytest
from hypothesis import settings

# Read when jax starts, so set before anything imports it. Rank promotion: a missing axis is an error here.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
    )

# The same examples in every run: a red test stays red until it is mended.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("fixed")


class WithoutTorch:
    """The finder of installed modules, blind to torch, as on a machine that does not have it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PathFinder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        hidden = name.partition(".")[0] in ("torch", "torchvision")
        return None if hidden else PathFinder.find_spec(name, path, target)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-torch", action="store_true", help="Hide torch, even if it is installed.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-torch"):
        sys.meta_path[:] = [WithoutTorch() if finder is PathFinder else finder for finder in sys.meta_path]
