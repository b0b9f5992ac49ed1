"""The command line: `pixelthink COMMAND`.

Top of the layers. This module holds the table of commands and turns mistakes into one line; it imports
nothing heavy, so that `pixelthink --help` answers at once. A command is a module
`pixelthink_jax.commands.NAME` (dashes become underscores) with

* `Args`: its flags, as any type that `tyro` reads: a frozen dataclass whose attribute docstrings are the
  help, or a union of such dataclasses for subcommands.
* `main(args: Args) -> int | None`: does the work through the library, prints, and returns the exit status
  (None is 0).
* `defaults(argv: list[str]) -> Args`, only where flags are laid over a file: the `Args` that they override,
  usually read with `load_config` from `commands.config_path(argv)`.
* `SEVERAL_PROCESSES = True`, only where the command can run as one of several: its `Args` then have the flags of
  `commands._launch.LaunchFlags`.

A command raises `InputError` for what a user can mend. Exit status: 0 done; 1 done, and the answer is no
(such as a failed check); 2 wrong input; 130 interrupted. `PIXELTHINK_TRACEBACK=1` shows where an error came
from.
"""

import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from pixelthink_jax import __version__
from pixelthink_jax.commands import INTERRUPTED
from pixelthink_jax.errors import InputError


class Command(NamedTuple):
    """A row of the table: what the overview says, and what the command's own help shows."""

    help: str
    example: str


COMMANDS = {
    "demo": Command(
        "Train the tiny policy with GRPO, evaluate it before and after; writes report.html.",
        "pixelthink demo --out demo",
    ),
    "segment": Command(
        "Answer a question about an image with a thought, a box, two points and a mask.",
        'pixelthink segment --image kitchen.jpg --query "what can I drink from?" --out answer',
    ),
    "sft": Command(
        "Train a policy on worked examples, chain of thought included.",
        "pixelthink sft --config configs/sft_tiny.yaml",
    ),
    "train": Command(
        "Train a policy with GRPO and the adaptive length reward.",
        "pixelthink train --config configs/tiny.yaml",
    ),
    "sweep": Command(
        "Train arms of an experiment, choose on one split, report on others.",
        "pixelthink sweep configs/sweeps/ablation_tiny.yaml",
    ),
    "train-segmenter": Command(
        "Train a segmenter on masks with boxes and points.",
        "pixelthink train-segmenter --config configs/segmenter_tiny.yaml",
    ),
    "evaluate": Command(
        "Score a policy and a segmenter on a dataset: gIoU, cIoU, valid answers, tokens.",
        "pixelthink evaluate --config configs/eval_shapereason.yaml",
    ),
    "report": Command(
        "Set finished evaluations side by side, with paired significance; writes an HTML page.",
        "pixelthink report runs/eval_shapereason runs/mine --out comparison.html",
    ),
    "prepare": Command(
        "Build a dataset as ArrayRecord files, or say what a file holds.",
        "pixelthink prepare reasonseg --source ReasonSeg --out data",
    ),
    "annotate": Command(
        "Score difficulty and write reference chains for a dataset, by a large model.",
        "pixelthink annotate --config configs/annotate_endpoint.yaml --estimate",
    ),
    "convert": Command(
        "Turn a run or an Orbax folder into a Hugging Face folder, or the other way round.",
        "pixelthink convert runs/tiny --out models/mine",
    ),
    "plan": Command(
        "Say whether a run fits a TPU slice or GPUs one does not have, and how fast it could be.",
        "pixelthink plan --config configs/pixelthink_7b.yaml --topology v5e-16",
    ),
    "verify": Command(
        "Say whether real weights work here: the first command for anyone who has some.",
        "pixelthink verify --policy models/Qwen2.5-VL-3B-Instruct --segmenter models/sam2.1-hiera-large",
    ),
    "fetch": Command(
        "Download a published model by name.",
        "pixelthink fetch qwen2.5-vl-3b --to models",
    ),
    "bench": Command(
        "Measure generation and encoding, here and now, against transformers.",
        "pixelthink bench generate --against transformers",
    ),
    "doctor": Command(
        "Say what is installed, which devices there are and what is missing.",
        "pixelthink doctor",
    ),
}
_PATH_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def main(argv: list[str] | None = None) -> int:
    """Runs `pixelthink` with the arguments `argv` (`sys.argv` when None) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return reported(lambda: _run(words))


def reported(work: Callable[[], int]) -> int:
    """The status that `work` returns, or that of a mistake after one line about it."""
    try:
        return work()
    except InputError as error:
        return _refuse(error, str(error))
    except _PATH_ERRORS as error:
        if error.filename is None:  # raised by a program's mistake, not by a path that someone gave
            raise
        return _refuse(error, f"{error.filename}: {error.strerror}; check the path and its permissions")
    except KeyboardInterrupt:
        print("pixelthink: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has heard enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: list[str]) -> int:
    """Answers for the overview or the version, or imports one command, parses its flags and calls it."""
    name, *flags = argv or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_overview(), flush=True)
        return 0
    if name in ("-V", "--version"):
        print(f"pixelthink {__version__}")
        return 0
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; {_suggestion(name)}")
    # The libraries below speak on stderr about frameworks that are absent on purpose.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Tracing makes objects by the million that no cycle holds; at Python's thresholds a fifth of a start-up is
    # spent looking for cycles among them.
    gc.set_threshold(50_000, 10, 10)
    module = importlib.import_module(f"pixelthink_jax.commands.{_module_name(name)}")
    args = _parse(module, name, flags)
    if getattr(module, "SEVERAL_PROCESSES", False):
        from pixelthink_jax.commands import _launch

        return _launch.run(module.main, args, argv, reported)
    return module.main(args) or 0


def _parse(module: ModuleType, name: str, argv: list[str]) -> Any:
    """The command's `Args` from its flags; what tyro refuses in a box becomes one line."""
    import tyro

    summary = f"{COMMANDS[name].help}\n\nExample:\n  {COMMANDS[name].example}"
    default = {"default": module.defaults(argv)} if hasattr(module, "defaults") else {}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(module.Args, prog=f"pixelthink {name}", description=summary, args=argv, **default)
    except SystemExit as stop:
        if stop.code == 2:
            raise InputError(f"{name}: {_flat(complaint.getvalue())}; see pixelthink {name} --help") from stop
        raise


def _flat(box: str) -> str:
    r"""The message inside a framed box, in one line, without its title and the hints below its first rule.

    >>> _flat("╭─ Value error ───╮\n│ Error parsing │\n│ --size: 'q'   │\n│ ───── │\n│ hints │\n╰───╯")
    "Error parsing --size: 'q'"
    """
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │|")
        if text and not set(text) <= set("─-╰╯"):
            words.append(text)
        elif words:
            break
    return " ".join(words) or "these flags cannot be read"


def _refuse(error: Exception, message: str) -> int:
    """Prints what is wrong in one line and returns the status for wrong input."""
    if os.environ.get("PIXELTHINK_TRACEBACK"):
        raise error
    print(f"pixelthink: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _overview() -> str:
    rows = "\n".join(f"  {name:<17}{row.help}" for name, row in COMMANDS.items())
    return (
        "usage: pixelthink COMMAND [FLAGS]\n\n"
        "Reasoning segmentation: an image and a question in, a thought, a box, two points and a mask out.\n\n"
        f"commands:\n{rows}\n\n"
        "pixelthink COMMAND --help shows its flags and an example; pixelthink --version the version."
    )


def _suggestion(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean {close[0]!r}?" if close else "pixelthink --help lists the commands"


def _module_name(command: str) -> str:
    return command.replace("-", "_")
