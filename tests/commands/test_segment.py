"""`pixelthink segment` with real, random models from folders: every mode, and every way to ask wrongly."""

import inspect
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax import cli
from pixelthink_jax.commands import segment as command
from pixelthink_jax.segmentation import loading, pipeline
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

FILES = ["mask.png", "overlay.png", "result.json"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """Flags that name two model folders."""
    folder = tmp_path_factory.mktemp("models")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    return [
        "--policy",
        str(folder / "policy"),
        "--segmenter",
        str(folder / "segmenter"),
        "--max-new-tokens",
        "4",
    ]


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for name in ("one.png", "two.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_image(tmp_path, images, models, capsys):
    out = tmp_path / "out"
    flags = ["--image", str(images / "one.png"), "--query", "the red circle", "--out", str(out)]
    assert cli.main(["segment", *models, *flags]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "the red circle" in printed.out and str(out) in printed.out
    assert files(out) == FILES
    record = json.loads((out / "result.json").read_text())
    assert record["query"] == "the red circle" and record["completion_tokens"] <= 4
    with Image.open(out / "mask.png") as mask:
        assert mask.size == (50, 30)


def test_a_folder(tmp_path, images, models, capsys):
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert cli.main(["segment", *models, "--image", str(images), "--query", "it", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert files(out) == [f"{name}/{file}" for name in ("one", "two") for file in FILES]
    assert printed.err.startswith("pixelthink: broken: ") and printed.err.count("\n") == 1
    assert printed.out.startswith("2 answered (2 without a usable answer), 1 failed")


def test_rows(tmp_path, images, models, capsys):
    rows = [
        {"image": "one.png", "query": "the red circle", "id": "first"},
        {"image": "none.png", "query": "the red circle"},
        {"image": "two.png"},
        {"image": "two.png", "query": "a <|im_end|>"},
        {"image": "two.png", "query": "the blue square"},
    ]
    path = images / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert cli.main(["segment", *models, "--rows", str(path), "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert files(out) == [f"{name}/{file}" for name in ("first", "line-000005") for file in FILES]
    errors = printed.err.splitlines()
    assert [line.split(": ")[1] for line in errors] == ["line-000002", "line-000003", "line-000004"]
    assert "none.png: no such image file" in errors[0] and "special token" in errors[2]
    assert printed.out.startswith("2 answered (2 without a usable answer), 3 failed")

    path.write_text(json.dumps(rows[0]) + "\n")
    assert cli.main(["segment", *models, "--rows", str(path), "--out", str(out)]) == 0


def test_interactive(tmp_path, images, models, capsys, monkeypatch):
    one = str(images / "one.png")
    talk = ["", one, "the red circle", "", "the blue square", "none.png", "", " ", str(images / "two.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(talk)))
    out = tmp_path / "out"
    assert cli.main(["segment", *models, "--interactive", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    # The empty first path, the path that is not there, and the empty question; the input ends before the last question.
    assert [line.partition("error: ")[2][:12] for line in printed.err.splitlines()] == [
        ".: is a fold",
        "none.png: no",
        "query ' ': i",
    ]
    assert files(out) == [f"{name}/{file}" for name in ("0001", "0002") for file in FILES]
    assert json.loads((out / "0002" / "result.json").read_text())["query"] == "the blue square"

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{one}\nthe red circle\n"))
    assert cli.main(["segment", *models, "--interactive"]) == 0
    assert "nothing, for want of --out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give one of --image"),
        (["--image", "IMAGE", "--interactive"], "give one of --image"),
        (["--image", "IMAGE", "--out", "OUT"], "--image and --query belong together"),
        (["--rows", "r.jsonl", "--query", "it", "--out", "OUT"], "--image and --query belong together"),
        (["--image", "IMAGE", "--query", "it"], "--out is missing"),
        (["--image", "IMAGE", "--query", "", "--out", "OUT"], "query '': it is empty"),
        (["--image", "IMAGE", "--query", " \n", "--out", "OUT"], "it is empty"),
        (["--image", "none.png", "--query", "it", "--out", "OUT"], "none.png: no such image file"),
        (["--image", "IMAGE", "--query", "it", "--out", "IMAGE"], "a file, where a folder is to be written"),
        (["--rows", "none.jsonl", "--out", "OUT"], "none.jsonl: no such file"),
        (["--image", "IMAGE", "--query", "it", "--out", "OUT", "--max-new-tokens", "x"], "--max-new-tokens"),
    ],
)
def test_mistakes_are_found_before_the_models_are_loaded(tmp_path, images, flags, says, capsys, monkeypatch):
    monkeypatch.setattr(loading.Policy, "from_pretrained", None)
    monkeypatch.setattr(loading.Segmenter, "from_pretrained", None)
    names = {"IMAGE": str(images / "one.png"), "OUT": str(tmp_path / "out")}
    assert cli.main(["segment", *(names.get(flag, flag) for flag in flags)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "damage", "says"),
    [
        ("--policy", lambda folder: folder.joinpath("config.json").unlink(), "no config.json"),
        ("--policy", lambda folder: folder.joinpath("tokenizer.json").unlink(), "tokenizer.json is missing"),
        ("--policy", lambda folder: _truncate(folder / "model.safetensors"), "damaged or truncated"),
        ("--segmenter", lambda folder: folder.joinpath("model.safetensors").unlink(), "no *.safetensors"),
        ("--segmenter", lambda folder: _truncate(folder / "model.safetensors"), "damaged or truncated"),
        (
            "--segmenter",
            lambda folder: folder.joinpath("config.json").write_text('{"model_type": "bert"}'),
            "bert",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_one_line_and_leaves_nothing(
    tmp_path, images, models, flag, damage, says, capsys
):
    tiny = tiny_policy() if flag == "--policy" else tiny_segmenter()
    tiny.export(tmp_path / "bad")
    damage(tmp_path / "bad")
    flags = ["--image", str(images / "one.png"), "--query", "it", "--out", str(tmp_path / "out")]
    assert cli.main(["segment", *models, flag, str(tmp_path / "bad"), *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
    assert not (tmp_path / "out").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_an_installation_without_the_tiny_models_says_so(tmp_path, images, capsys, monkeypatch):
    monkeypatch.setattr(loading.resources, "files", lambda name: tmp_path)
    flags = ["--image", str(images / "one.png"), "--query", "it", "--out", str(tmp_path / "out")]
    assert cli.main(["segment", *flags]) == 2
    assert "sam2-tiny-shapes: this installation has no such model" in capsys.readouterr().err


def test_the_limit_is_the_library_s():
    assert command.Args().max_new_tokens == pipeline.MAX_NEW_TOKENS
    assert inspect.signature(pipeline.segment).parameters["max_new_tokens"].default == pipeline.MAX_NEW_TOKENS
