"""One module a command: flags in `Args`, work in `main(args)`; `pixelthink_jax.cli` dispatches to them."""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

INTERRUPTED = 130
"""Exit status of what was told to stop (Ctrl-C, SIGTERM) before it was done; the same command continues."""


def training_end(done: int, steps: int) -> tuple[str, int]:
    """What a training command says of its end, and its exit status.

    >>> training_end(10, 10)
    ('trained for 10 of 10 steps', 0)
    >>> training_end(3, 10)
    ('interrupted; the same command continues; trained for 3 of 10 steps', 130)
    """
    told = f"trained for {done} of {steps} steps"
    return (told, 0) if done == steps else (f"interrupted; the same command continues; {told}", INTERRUPTED)


def config_path(argv: list[str]) -> Path | None:
    """The file that `--config FILE` or `--config=FILE` names; None without that flag.

    Where `configs/NAME.yaml` is not a file, as beside an installed package, it means the config of that name
    that travels in the package.

    >>> config_path(["--seed", "3", "--config=mine/run.yaml"]).as_posix()
    'mine/run.yaml'
    """
    name = flag_value("--config", argv)
    return _given_or_packaged(Path(name)) if name else None


def flag_value(wanted: str, argv: list[str]) -> str | None:
    """What follows a flag, before all flags are read; None without it.

    >>> flag_value("--machine", ["--config", "mine.yaml", "--machine", "v5e-16"])
    'v5e-16'
    """
    for flag, following in zip(argv, [*argv[1:], ""], strict=False):
        name = following if flag == wanted else flag.removeprefix(f"{wanted}=")
        if name and name != flag:
            return name
    return None


def settings_of(kind: type, config: Any) -> dict[str, Any]:
    """The fields of the dataclass `kind` as `config` has them, without those of a command's `Args` around it."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}


def _given_or_packaged(path: Path) -> Path:
    packaged = Path(str(resources.files("pixelthink_jax"))) / path
    return packaged if not path.exists() and path.parent == Path("configs") and packaged.is_file() else path
