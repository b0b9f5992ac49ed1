"""Folders on object stores (`gs://...`, `s3://...`), through etils.epath.

Checkpoints go there by themselves: Orbax writes them in place, each process its own part. Everything else is a file on
this machine: a policy or a dataset is copied here before it is read, and what a run writes (logs, exports) is a folder
here that is copied there, every minute and at the end.
"""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError

_EVERY_SECONDS = 60.0
EXPORTS = ("policy", "adapter", "profile", "segmenter")
"""Folders of a run that are written for others and not read by a run that is continued."""


def is_remote(path: str | Path) -> bool:
    """Whether this is the address of an object store.

    >>> is_remote("gs://bucket/run"), is_remote("runs/tiny")
    (True, False)
    """
    return "://" in str(path)


def check_out_dir(out_dir: str | Path) -> Path:
    """The folder, if it can be one.

    Raises:
        InputError: It, or a folder it lies in, is a file; or it is an address on an object store.
    """
    path = Path(out_dir)
    if path.parts and path.parts[0].endswith(":"):  # a path has lost the second slash of gs://
        raise InputError(
            f"{out_dir}: an address, and this writes to a folder of this machine; give one, and copy it afterwards"
        )
    blocking = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
    if blocking is not None:
        raise InputError(f"{blocking}: a file, where a folder is to be written; choose another place")
    return path


def remote_path(url: str) -> Any:
    """The `epath.Path` of an address.

    Raises:
        InputError: No such kind of store, or its package is not installed.
    """
    from etils import epath

    try:
        path = epath.Path(url)
        path.exists()
    except (ImportError, KeyError, ValueError, OSError) as error:
        raise InputError(
            f"{url}: cannot be reached ({' '.join(str(error).split()):.160}); install the package of its kind, such as "
            "gcsfs, and log in there"
        ) from error
    return path


def on_this_machine(place: str | Path) -> Path:
    """A local path as it is, an address as its local copy.

    >>> on_this_machine("models/mine")
    PosixPath('models/mine')
    """
    return local_copy(str(place)) if is_remote(place) else Path(place)


def local_copy(url: str, *, leave_out: Collection[str] = ()) -> Path:
    """A file or folder of a store on this machine; files of the same size and time are not fetched again.

    Copies have the time that the store gives its files. Where it gives none (s3), only size tells that one has changed.

    Args:
        url: Its address.
        leave_out: Paths within the folder that are not wanted.

    Raises:
        InputError: Nothing is there, or the store cannot be reached.
    """
    source = remote_path(url)
    if not source.exists():
        raise InputError(f"{url}: nothing is there; check the address and who may read it")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pixelthink" / "remote"
    place = cache / hashlib.sha256(url.encode()).hexdigest()[:16] / source.name
    _fetch(source, place, leave_out)
    return place


def _fetch(source: Any, place: Path, leave_out: Collection[str], within: str = "") -> None:
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        for child in source.iterdir():
            if (path := f"{within}{child.name}") not in leave_out:
                _fetch(child, place / child.name, leave_out, f"{path}/")
        return
    there = source.stat()
    here = place.stat() if place.is_file() else None
    if here is not None and (here.st_size, int(here.st_mtime)) == (there.length, there.mtime):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    with source.open("rb") as stored, partial.open("wb") as copied:
        shutil.copyfileobj(stored, copied, 2**24)
    os.utime(partial, (there.mtime, there.mtime))
    partial.replace(place)


@contextmanager
def mirrored(out: str) -> Iterator[Path]:
    """The folder on this machine that a run writes its files to; of a local path that path.

    Args:
        out: A path, or an address. Of an address the files that are there come here first, and what is written here is
            copied there every minute and at the end, however the run ends.
    """
    if not is_remote(out):
        yield Path(out)
        return
    target = remote_path(out)
    with tempfile.TemporaryDirectory(prefix="pixelthink-") as parent:
        folder = Path(parent) / target.name
        folder.mkdir()
        if target.exists():
            _fetch(target, folder, ("checkpoints", *EXPORTS))
        mirror, done = _Mirror(folder, target), threading.Event()
        worker = threading.Thread(target=mirror.run, args=(done,), daemon=True)
        worker.start()
        try:
            yield folder
        finally:
            done.set()
            worker.join()
            mirror.push()


class _Mirror:
    """Makes a folder of a store follow one of this machine; what it has besides stays."""

    def __init__(self, folder: Path, target: Any):
        self._folder, self._target = folder, target
        self._pushed = {path: self._state(path) for path in self._files()}

    def run(self, done: threading.Event) -> None:
        """Copies once a minute until the event; a store that fails now is asked again a minute later."""
        while not done.wait(_EVERY_SECONDS):
            try:
                self.push()
            except OSError:
                continue

    def push(self) -> None:
        """Copies what has changed, and removes there what has been removed here."""
        found = self._files()
        for path in self._pushed.keys() - set(found):
            self._there(path).unlink(missing_ok=True)
            del self._pushed[path]
        for path in found:
            state = self._state(path)
            if self._pushed.get(path) == state:
                continue
            there = self._there(path)
            there.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, there.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**24)
            self._pushed[path] = state

    def _there(self, path: Path) -> Any:
        return self._target / path.relative_to(self._folder).as_posix()

    def _files(self) -> list[Path]:
        """Files that are whole; `config.json` last, without which a folder is no policy."""
        found = [path for path in self._folder.rglob("*") if path.is_file()]
        whole = [
            p for p in found if not any(part.startswith(".") for part in p.relative_to(self._folder).parts)
        ]
        return sorted(whole, key=lambda path: (path.name == "config.json", path))

    @staticmethod
    def _state(path: Path) -> tuple[int, int]:
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size
