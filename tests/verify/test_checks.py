"""The checks on random models, which compute well and answer badly, and on models that are broken."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax import cli
from pixelthink_jax.answers import parse_completion
from pixelthink_jax.data.targets import mask_box
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Masks
from pixelthink_jax.verify import checks
from tests.evaluation.tiny import completion, tiny_policy, tiny_segmenter


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    return folder


def states(found) -> dict[str, str]:
    return {check.what: check.state for check in found}


def test_a_random_policy_computes_but_does_not_answer(models):
    found = list(checks.verify_policy(models / "policy", max_new_tokens=4))
    assert states(found) == {
        "policy weights": "ok",
        "policy logits": "ok",
        "greedy text": "ok",
        "coordinates": "warn",
    }
    assert "in float32, every tensor known and in place" in found[0].says
    assert found[2].says.startswith("4 tokens, cut at the limit")


def test_a_random_segmenter_computes_but_does_not_see(models):
    found = list(checks.verify_segmenter(models / "segmenter"))
    assert states(found) == {"segmenter weights": "ok", "segmenter logits": "ok", "segmenter mask": "fail"}
    assert found[2].says.endswith("expected 0.5 or more")


def test_a_good_mask_passes(models, monkeypatch):
    def predict(self, image, box, points):
        truth = np.stack([checks.known_scene().mask] * 3)
        return Masks(np.ones((3, 4, 4), np.float32), truth, np.array([0.9, 0.8, 0.7], np.float32))

    monkeypatch.setattr(Segmenter, "predict", predict)
    *_, mask = checks.verify_segmenter(models / "segmenter")
    assert (mask.state, mask.says) == ("ok", "IoU 1.00 with the true mask of a drawn shape, predicted 0.90")


def test_numbers_that_are_not_finite_fail(tmp_path):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tiny_policy().params)
    tiny_policy().with_params(broken).export(tmp_path / "policy")
    found = list(checks.verify_policy(tmp_path / "policy", max_new_tokens=4))
    assert states(found)["policy logits"] == states(found)["greedy text"] == "fail"
    tiny = tiny_segmenter()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tiny.params)
    Segmenter(broken, tiny.config).export(tmp_path / "segmenter")
    found = list(checks.verify_segmenter(tmp_path / "segmenter"))
    assert states(found) == {"segmenter weights": "ok", "segmenter logits": "fail"}


def truth() -> list[float]:
    """The known scene's box in the 840 frame."""
    scene = checks.known_scene()
    scale = 840 / np.tile(scene.image.shape[1::-1], 2)
    return (np.array(mask_box(scene.mask)) * scale).tolist()


@pytest.mark.parametrize(
    ("box", "point", "state", "says"),
    [
        (truth(), [1, 1], "ok", "inside the pixels840 frame, box IoU 1.00 with the truth"),
        ([0, 0, 1, 1], [840, 840], "ok", "box IoU 0.00"),
        ([0, 0, 1000, 1], [1, 1], "fail", "outside its pixels840 frame; set coordinate_frame"),
        ([0, 0, 1, 1], [1, 841], "fail", "outside its pixels840 frame"),
        ([5, 5, 5, 9], [1, 1], "fail", "outside its pixels840 frame"),
        ("left", [1, 1], "warn", "no answer to look at (the box of the answer is not four numbers)"),
    ],
)
def test_coordinates(box, point, state, says):
    text = f"<answer>{json.dumps({'bbox': box, 'points_1': point, 'points_2': point})}</answer>"
    assert parse_completion(text).payload is not None
    check = checks._coordinates(tiny_policy(), completion(text), (56, 56), checks.known_scene())
    assert check.state == state and says in check.says


def test_differences_are_relative_to_the_largest_value():
    reference = np.array([[1.0, -100.0]])
    assert checks._difference("x", reference + 0.009, reference, 1e-4).state == "ok"
    assert checks._difference("x", reference + 0.02, reference, 1e-4).state == "fail"
    assert checks._difference("x", reference[0], reference, 1e-4).says.startswith("shapes differ")
    assert checks._difference("x", reference * np.nan, reference, 1e-4).state == "fail"


def test_the_command_prints_each_check_and_its_status_is_the_verdict(models, capsys):
    flags = ["--policy", str(models / "policy"), "--max-new-tokens", "4"]
    assert cli.main(["verify", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "warn", "no"]
    assert cli.main(["verify", *flags, "--segmenter", str(models / "segmenter"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [check["state"] for check in found] == ["ok", "ok", "fail", "ok", "ok", "ok", "warn"]
    assert cli.main(["verify", "--segmenter", str(models / "segmenter")]) == 1
    assert capsys.readouterr().out.endswith("1 of 3 checks failed: segmenter mask\n")


def test_a_folder_that_is_no_model_and_a_missing_pytorch_are_one_line(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for flags, says in (
        (["--policy", str(tmp_path)], "not a model folder"),
        (["--segmenter", str(tmp_path / "none")], "none: "),
        (["--policy", str(models / "policy"), "--against", "transformers"], "PyTorch is not installed here"),
    ):
        assert cli.main(["verify", *flags]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err


def test_the_known_scene_is_easy_and_has_an_answer():
    scene = checks.known_scene()
    assert scene.level == "easy" and scene.mask.any() and scene.mask.shape == scene.image.shape[:2]
