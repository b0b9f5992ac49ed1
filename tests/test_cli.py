"""The dispatcher: what it lists, how it refuses, and how fast it answers."""

import importlib
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from pixelthink_jax import __version__, cli
from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Args:
    """Flags of a command that only tests know."""

    size: int = 3
    """How big."""


@pytest.fixture
def command(monkeypatch):
    """Registers `try-it`, whose `main` the test passes; returns a function that runs it with flags."""

    def run(main, *argv: str, **parts) -> int:
        monkeypatch.setattr(cli, "COMMANDS", {"try-it": cli.Command("Try it.", "pixelthink try-it --size 4")})
        module = ModuleType("try_it")
        vars(module).update(Args=Args, main=main, **parts)
        monkeypatch.setitem(sys.modules, "pixelthink_jax.commands.try_it", module)
        return cli.main(["try-it", *argv])

    return run


def one_line(capsys) -> str:
    """What was printed on stderr, which must be one line."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err.strip()


def fail(error: BaseException):
    def main(args):
        raise error

    return main


def test_flags_reach_the_command(command):
    seen = []
    assert command(seen.append, "--size", "5") == 0
    assert seen == [Args(size=5)]


def test_the_status_of_the_command_is_returned(command):
    assert command(lambda args: 1) == 1


def test_flags_are_laid_over_defaults(command):
    seen = []
    command(seen.append, defaults=lambda argv: Args(size=7 + len(argv)))
    command(seen.append, "--size", "5", defaults=lambda argv: Args(size=7))
    assert seen == [Args(size=7), Args(size=5)]


def test_input_error_is_one_line_and_status_2(command, capsys):
    assert command(fail(InputError("folder x:\n  no config.json; give a model folder"))) == 2
    assert one_line(capsys) == "pixelthink: error: folder x: no config.json; give a model folder"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--size", "q"], "try-it: Error parsing --size: invalid literal for int()"),
        (["--sise", "3"], "try-it: Unrecognized options: --sise"),
        (["extra"], "try-it: Unrecognized options: extra"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(command, capsys, argv, says):
    assert command(fail(AssertionError("the command must not run")), *argv) == 2
    line = one_line(capsys)
    assert line.startswith(f"pixelthink: error: {says}")
    assert line.endswith("see pixelthink try-it --help")


def test_a_config_that_refuses_itself_is_one_line(command, capsys, monkeypatch):
    @dataclass(frozen=True)
    class Strict(Args):
        """Flags with a check."""

        def __post_init__(self):
            raise InputError(f"size must be even, got {self.size}; choose 4")

    monkeypatch.setitem(globals(), "Args", Strict)
    assert command(fail(AssertionError("the command must not run"))) == 2
    assert "size must be even, got 3; choose 4" in one_line(capsys)


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, IsADirectoryError])
def test_a_path_that_cannot_be_used_is_one_line(command, capsys, error):
    assert command(fail(error(2, "No such file or directory", "scene.png"))) == 2
    assert one_line(capsys).startswith("pixelthink: error: scene.png: No such file or directory")


def test_errors_of_the_program_are_not_hidden(command):
    with pytest.raises(ValueError, match="a bug"):
        command(fail(ValueError("a bug")))
    with pytest.raises(FileNotFoundError):
        command(fail(FileNotFoundError("raised without a path")))


def test_traceback_on_request(command, monkeypatch):
    monkeypatch.setenv("PIXELTHINK_TRACEBACK", "1")
    with pytest.raises(InputError):
        command(fail(InputError("wrong")))


def test_interrupted(command, capsys):
    assert command(fail(KeyboardInterrupt())) == 130
    assert one_line(capsys) == "pixelthink: interrupted"


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["doctr"]) == 2
    assert one_line(capsys) == "pixelthink: error: unknown command 'doctr'; did you mean 'doctor'?"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pixelthink {__version__}\n"


def test_overview_lists_every_command(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and row.help in out for name, row in cli.COMMANDS.items())
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_shows_its_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code in (0, None)
    out = " ".join(capsys.readouterr().out.split())
    assert f"usage: pixelthink {name}" in out
    assert cli.COMMANDS[name].example in out
    assert cli.COMMANDS[name].example.startswith(f"pixelthink {name}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_example_of_every_command_is_accepted(name, monkeypatch):
    """The flags of the example parse; nothing is run."""
    monkeypatch.chdir(Path(__file__).parents[1])
    called, *flags = shlex.split(cli.COMMANDS[name].example)[1:]
    module = importlib.import_module(f"pixelthink_jax.commands.{name.replace('-', '_')}")
    monkeypatch.setattr(module, "main", lambda args: 7)
    assert cli.main([called, *flags]) == 7


def test_every_command_module_has_a_row():
    folder = Path(cli.__file__).parent / "commands"
    modules = {path.stem.replace("_", "-") for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert modules == set(cli.COMMANDS)


def test_help_is_fast_and_imports_nothing_heavy():
    code = "import sys; from pixelthink_jax import cli; cli.main(['--help']); sys.exit(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.split()
    assert "pixelthink_jax.cli" in modules
    assert not {"jax", "numpy", "tyro", "transformers", "rich"} & set(modules)

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pixelthink_jax", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
