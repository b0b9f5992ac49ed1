"""Fetching from a hub that is a folder: what is asked of it, what is checked, and how it can fail."""

import errno
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from pixelthink_jax import cli, fetch
from pixelthink_jax.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = "model.safetensors"
CONTENT = {
    "config.json": b"{}\n",
    LARGE: b"weights" * 100,
    "LICENSE": b"do as you like",
    "sam2.1_hiera_tiny.pt": b"pickle",
    "README.md": b"words",
    "onnx/model.json": b"{}",
}
WANTED = ["LICENSE", "config.json", LARGE]


class FakeHub:
    """The two calls that are made of `huggingface_hub`, over `CONTENT`."""

    def __init__(self, **card: str):
        self.card, self.calls, self.damage, self.size = card, [], {}, None

    def model_info(self, repo: str, *, revision: str, files_metadata: bool) -> Any:
        assert files_metadata
        self.calls.append(("info", repo, revision))
        card = SimpleNamespace(to_dict=lambda: self.card) if self.card else None
        return SimpleNamespace(
            sha=COMMIT, card_data=card, siblings=[self._sibling(*item) for item in CONTENT.items()]
        )

    def _sibling(self, name: str, content: bytes) -> Any:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if name == LARGE else None
        return SimpleNamespace(
            rfilename=name, size=self.size or len(content), blob_id="0" if lfs else git, lfs=lfs
        )

    def snapshot_download(
        self, repo: str, *, revision: str, local_dir: str, allow_patterns: list[str]
    ) -> None:
        self.calls.append(("download", repo, revision, sorted(allow_patterns)))
        for name in allow_patterns:
            content = self.damage.get(name, CONTENT[name])
            if content is not None:
                Path(local_dir, name).write_bytes(content)


def fetched(hub: FakeHub, to: Path) -> Path:
    return fetch.download(fetch.find_model("sam2.1-tiny", hub=hub), to, hub=hub)


def test_files_of_one_commit_are_verified_and_recorded(tmp_path):
    hub = FakeHub(license="apache-2.0", license_link="https://example.org/licence")
    folder = fetched(hub, tmp_path / "models")
    repo = "facebook/sam2.1-hiera-tiny"
    assert hub.calls == [("info", repo, "main"), ("download", repo, COMMIT, WANTED)]
    assert folder == tmp_path / "models" / "sam2.1-hiera-tiny"
    record = json.loads((folder / "SOURCE.json").read_text())
    assert (record["repo"], record["revision"], record["commit"]) == (repo, "main", COMMIT)
    assert record["licence"] == "apache-2.0, https://example.org/licence"
    assert {name: row["sha256"] for name, row in record["files"].items()} == {
        name: hashlib.sha256(CONTENT[name]).hexdigest() for name in WANTED
    }
    assert {path.name for path in folder.iterdir()} == {*WANTED, "SOURCE.json"}
    # The same again is welcome, another commit in its place is not.
    fetched(hub, tmp_path / "models")
    (folder / "SOURCE.json").write_text(json.dumps(record | {"commit": "other"}))
    with pytest.raises(InputError, match="holds facebook/sam2.1-hiera-tiny at other; remove it"):
        fetched(hub, tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "content"), [(LARGE, b"weights"), (LARGE, b"WEIGHTS" * 100), ("config.json", b"[]\n")]
)
def test_a_damaged_file_is_removed_and_named(tmp_path, name, content):
    hub = FakeHub()
    hub.damage = {name: content}
    with pytest.raises(InputError, match=rf"{name}: its hash is .*; removed, run the same command again"):
        fetched(hub, tmp_path)
    folder = tmp_path / "sam2.1-hiera-tiny"
    assert not (folder / name).exists() and not (folder / "SOURCE.json").exists()
    # As the hub client leaves it, an unfinished folder is continued.
    (folder / ".cache").mkdir()
    hub.damage = {}
    assert (fetched(hub, tmp_path) / "SOURCE.json").is_file()


def test_a_file_that_did_not_come_is_named(tmp_path):
    hub = FakeHub()
    hub.damage = {"LICENSE": None}
    with pytest.raises(InputError, match="LICENSE: was not fetched"):
        fetched(hub, tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "sam2.1-hiera-tiny"
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(InputError, match="not empty, and not an earlier fetch"):
        fetched(FakeHub(), tmp_path)
    (folder / "SOURCE.json").write_text("[]")
    with pytest.raises(InputError, match="not readable"):
        fetched(FakeHub(), tmp_path)


def test_a_disk_too_small_is_found_before_anything_is_written(tmp_path):
    hub = FakeHub()
    hub.size = 10**18
    with pytest.raises(InputError, match="3000000000.0 GB needed"):
        fetched(hub, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_names_and_licences():
    assert fetch.published_model("QWEN2.5-vl-3b").repo == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert fetch.published_model("Seg-Zero-7B").repo == "Ricky06662/Seg-Zero-7B"
    with pytest.raises(InputError, match="'gpt': not one of the published models qwen2.5-vl-3b, "):
        fetch.published_model("gpt")
    assert fetch.find_model("sam2-large", hub=FakeHub()).licence == "Apache-2.0"
    named = FakeHub(license="other", license_name="qwen-research")
    assert fetch.find_model("qwen2.5-vl-3b", hub=named).licence == "qwen-research"
    assert len({model.name for model in fetch.PUBLISHED}) == len({m.repo for m in fetch.PUBLISHED}) == 11


def raising(error: Exception) -> Any:
    def model_info(*args: Any, **settings: Any) -> Any:
        raise error

    return SimpleNamespace(model_info=model_info)


def http_error(kind: type[Exception]) -> Exception:
    """An error of the hub, made without a request."""
    error = kind.__new__(kind)
    error.args = ("404 Client Error",)
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            errors.OfflineModeIsEnabled("offline mode\nis enabled"),
            r"cannot be reached \(OfflineModeIsEnabled: offline mode is",
        ),
        (errors.LocalEntryNotFoundError("no internet"), "cannot be reached"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "cannot be reached"),
        (errors.HfHubHTTPError.__bases__[0]("name not known"), "cannot be reached"),
        (http_error(errors.GatedRepoError), "gated; accept its terms"),
        (http_error(errors.RepositoryNotFoundError), "unknown to the hub"),
        (http_error(errors.RevisionNotFoundError), "no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_one_line(error, says):
    with pytest.raises(InputError, match=says) as caught:
        fetch.find_model("sam2-large", revision="v9", hub=raising(error))
    assert "\n" not in str(caught.value)


def test_a_revision_without_safetensors_is_refused():
    hub = FakeHub()
    info = SimpleNamespace(sha=COMMIT, card_data=None, siblings=[hub._sibling("config.json", b"{}")])
    with pytest.raises(InputError, match="holds no safetensors"):
        fetch.find_model("sam2-large", hub=SimpleNamespace(model_info=lambda *args, **settings: info))


def test_the_command_says_what_it_is_about_to_fetch(tmp_path, capsys, monkeypatch):
    hub = FakeHub(license="apache-2.0")
    monkeypatch.setattr(fetch, "_hub", lambda: hub)
    assert cli.main(["fetch", "facebook/sam2.1-hiera-tiny", "--to", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "revision", "licence", "size", "verified"]
    assert COMMIT in lines[1] and "apache-2.0" in lines[2] and lines[3].endswith("in 3 files")


def test_the_command_lists_and_refuses(tmp_path, capsys, monkeypatch):
    assert cli.main(["fetch"]) == 0
    assert capsys.readouterr().out.count("\n") == len(fetch.PUBLISHED)
    monkeypatch.setattr(fetch, "_hub", lambda: raising(errors.OfflineModeIsEnabled("offline")))
    for flags, says in (
        (["sam2-large"], "--to is missing"),
        (["sam2-large", "--to", "gs://models"], "an address, and this writes to a folder of this machine"),
        (["sam3", "--to", str(tmp_path)], "not one of the published models"),
        (["sam2-large", "--to", str(tmp_path / "new")], "the hub cannot be reached"),
    ):
        assert cli.main(["fetch", *flags]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
    assert not (tmp_path / "new").exists()
