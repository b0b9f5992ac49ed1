"""Published models by name: what they are, and a verified copy of their files in a folder.

Only safetensors, JSON, tokenizer and licence files are fetched. A branch is resolved to a commit first, files come
from that commit, each is compared with the hub's own hash, and `SOURCE.json` records all of it. An interrupted
download continues where it stopped.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pixelthink_jax.errors import InputError

SOURCE_FILE = "SOURCE.json"
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "LICENSE*", "NOTICE*")
# Where the hub client keeps what an interrupted download needs.
_HUB_STATE = ".cache"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PublishedModel:
    """A model that this package runs.

    Attributes:
        name: What `pixelthink fetch` calls it.
        repo: Its id on the Hugging Face hub.
        kind: What it is here.
        licence: As its authors stated it when this table was written; the repository's own word counts.
        gigabytes: About how much is fetched.
    """

    name: str
    repo: str
    kind: Literal["policy", "segmenter"]
    licence: str
    gigabytes: float


_QWEN_RESEARCH = "Qwen Research licence, non-commercial"
PUBLISHED = (
    PublishedModel("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "policy", _QWEN_RESEARCH, 7.5),
    PublishedModel("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "policy", "Apache-2.0", 16.6),
    PublishedModel("qwen2.5-vl-32b", "Qwen/Qwen2.5-VL-32B-Instruct", "policy", "Apache-2.0", 66.9),
    PublishedModel("qwen2.5-vl-72b", "Qwen/Qwen2.5-VL-72B-Instruct", "policy", "Qwen licence", 146.8),
    PublishedModel("seg-zero-7b", "Ricky06662/Seg-Zero-7B", "policy", "see the repository", 16.6),
    PublishedModel("visionreasoner-7b", "Ricky06662/VisionReasoner-7B", "policy", "see the repository", 16.6),
    PublishedModel("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", "segmenter", "Apache-2.0", 0.2),
    PublishedModel("sam2.1-small", "facebook/sam2.1-hiera-small", "segmenter", "Apache-2.0", 0.2),
    PublishedModel("sam2.1-base-plus", "facebook/sam2.1-hiera-base-plus", "segmenter", "Apache-2.0", 0.3),
    PublishedModel("sam2.1-large", "facebook/sam2.1-hiera-large", "segmenter", "Apache-2.0", 0.9),
    PublishedModel("sam2-large", "facebook/sam2-hiera-large", "segmenter", "Apache-2.0", 0.9),
)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: Path in the repository.
        bytes: Its size.
        sha256: Its hash, where the hub stores it as a large file; None for others.
        git_sha1: Its git object id, the hash of the others.
    """

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Offer:
    """What would be fetched.

    Attributes:
        model: The row of the table.
        revision: The branch, tag or commit that was asked for.
        commit: The commit it is now.
        licence: The repository's own statement, or the table's where it has none.
        files: The files, by name.
    """

    model: PublishedModel
    revision: str
    commit: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def published_model(name: str) -> PublishedModel:
    """A row of the table by its name or by its hub id, whatever the case.

    Raises:
        InputError: There is no such row.

    >>> published_model("facebook/SAM2.1-hiera-tiny").name
    'sam2.1-tiny'
    """
    for model in PUBLISHED:
        if name.lower() in (model.name, model.repo.lower(), model.repo.rpartition("/")[2].lower()):
            return model
    names = ", ".join(model.name for model in PUBLISHED)
    raise InputError(
        f"model {name!r}: not one of the published models {names}; or download its folder yourself"
    )


def find_model(name: str, *, revision: str = "main", hub: Any = None) -> Offer:
    """Asks the hub what a model consists of at a revision.

    Args:
        name: See `published_model`.
        revision: Branch, tag or commit.
        hub: Stands in for `huggingface_hub`, in tests.

    Raises:
        InputError: The model is unknown, or the hub cannot be reached, refuses, or lacks metadata to check against.
    """
    model = published_model(name)
    hub = hub or _hub()
    with _hub_errors(model, revision):
        info = hub.model_info(model.repo, revision=revision, files_metadata=True)
    files = tuple(_remote_file(sibling) for sibling in info.siblings or () if _is_wanted(sibling.rfilename))
    if not info.sha or not any(file.name.endswith(".safetensors") for file in files):
        raise InputError(f"{model.repo}: revision {revision} holds no safetensors; choose another --revision")
    return Offer(model, revision, info.sha, _licence(info) or model.licence, files)


def download(offer: Offer, to: str | Path, *, hub: Any = None) -> Path:
    """Fetches the files of an offer to `to/<repository name>`, verifies them and records where they came from.

    Args:
        offer: Of `find_model`.
        to: Parent folder; made where it is missing.
        hub: Stands in for `huggingface_hub`, in tests.

    Returns:
        The model's folder.

    Raises:
        InputError: The folder holds something else, the disk is too small, the hub cannot be reached, or a file is not
            what the hub says it is.
    """
    folder = Path(to) / offer.model.repo.rpartition("/")[2]
    _check_folder(folder, offer)
    _check_room(folder, offer)
    folder.mkdir(parents=True, exist_ok=True)
    hub = hub or _hub()
    with _hub_errors(offer.model, offer.revision):
        hub.snapshot_download(
            offer.model.repo,
            revision=offer.commit,
            local_dir=str(folder),
            allow_patterns=[file.name for file in offer.files],
        )
    hashes = {file.name: verify_file(folder / file.name, file) for file in offer.files}
    record = {
        "repo": offer.model.repo,
        "revision": offer.revision,
        "commit": offer.commit,
        "licence": offer.licence,
        "files": {file.name: {"bytes": file.bytes, "sha256": hashes[file.name]} for file in offer.files},
    }
    partial = folder / f"{SOURCE_FILE}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / SOURCE_FILE)
    return folder


def verify_file(path: Path, expected: RemoteFile) -> str:
    """The sha256 of a fetched file, which is what the hub says it is.

    Raises:
        InputError: It is missing, or of another size or content; a damaged file is removed, so that the next try
            fetches it again.
    """
    if not path.is_file():
        raise InputError(f"{path}: was not fetched; run the same command again")
    sha256, git_sha1 = _hashes(path)
    wanted, found = (expected.sha256, sha256) if expected.sha256 else (expected.git_sha1, git_sha1)
    if wanted is not None and wanted != found:
        path.unlink()
        raise InputError(
            f"{path}: its hash is {found}, the hub's is {wanted}; removed, run the same command again"
        )
    if path.stat().st_size != expected.bytes:
        raise InputError(
            f"{path}: {path.stat().st_size} bytes, the hub has {expected.bytes}; run the same command again"
        )
    return sha256


def _hashes(path: Path) -> tuple[str, str]:
    """SHA-256 of the content, and SHA-1 as git names it: with its size before it."""
    sha256, git_sha1 = (
        hashlib.sha256(),
        hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False),
    )
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            git_sha1.update(chunk)
    return sha256.hexdigest(), git_sha1.hexdigest()


def _is_wanted(name: str) -> bool:
    """Files of the repository's top folder that a model needs, and its licence."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in PATTERNS)


def _remote_file(sibling: Any) -> RemoteFile:
    if sibling.size is None:
        raise InputError(f"{sibling.rfilename}: the hub does not say its size; update huggingface_hub")
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    return RemoteFile(sibling.rfilename, sibling.size, sha256, sibling.blob_id)


def _licence(info: Any) -> str | None:
    """The licence of a model card: its name, where it is a special one, and its link."""
    card = info.card_data.to_dict() if info.card_data else {}
    words = (card.get("license_name") or card.get("license"), card.get("license_link"))
    return ", ".join(str(word) for word in words if word) or None


def _check_folder(folder: Path, offer: Offer) -> None:
    """Refuses to write over anything but an earlier fetch of the same model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: a file; choose another folder with --to")
    if (folder / SOURCE_FILE).is_file():
        recorded = _recorded(folder / SOURCE_FILE)
        if recorded != (offer.model.repo, offer.commit):
            raise InputError(
                f"{folder}: holds {' at '.join(recorded)}; remove it or choose another folder with --to"
            )
    elif any(folder.iterdir()) and not (folder / _HUB_STATE).is_dir():
        raise InputError(f"{folder}: not empty, and not an earlier fetch; choose another folder with --to")


def _recorded(path: Path) -> tuple[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return str(values["repo"]), str(values["commit"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}); remove the folder") from error


def _check_room(folder: Path, offer: Offer) -> None:
    present = sum(
        (folder / file.name).stat().st_size for file in offer.files if (folder / file.name).is_file()
    )
    free = shutil.disk_usage(
        next(place for place in (folder, *folder.absolute().parents) if place.exists())
    ).free
    if offer.bytes - present > free:
        need = (offer.bytes - present) / 1e9
        raise InputError(
            f"{folder}: {need:.1f} GB needed, {free / 1e9:.1f} GB free; choose another folder with --to"
        )


def _hub() -> Any:
    import huggingface_hub

    return huggingface_hub


@contextmanager
def _hub_errors(model: PublishedModel, revision: str) -> Iterator[None]:
    """Turns what the hub client raises into one line."""
    from huggingface_hub import errors

    # The hub's errors derive from those of its transport library, whose name differs between releases.
    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{model.repo}: gated; accept its terms on its page, then run: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{model.repo}: unknown to the hub, or not open to you; run: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{model.repo}: no revision {revision!r}; choose another --revision") from error
    except (errors.LocalEntryNotFoundError, ConnectionError, transport) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{model.repo}: the hub cannot be reached ({type(error).__name__}: {reason}); connect this machine, or "
            "fetch elsewhere and copy the folder"
        ) from error
