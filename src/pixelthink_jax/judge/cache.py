"""Replies on disk, by what was asked of whom: an answer that was paid for is never asked for again."""

import dataclasses
import hashlib
import json
import os
import threading
from pathlib import Path

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.protocol import Reply, Request


class ReplyCache:
    """A folder of one small file a reply; several runs may use it at once."""

    def __init__(self, folder: str | Path):
        """Nothing is written before the first reply."""
        self._folder = Path(folder)

    def get(self, backend: str, request: Request) -> Reply | None:
        """The reply to the same request of the same back end; a damaged file counts as none."""
        try:
            tree = json.loads(self._path(backend, request).read_text(encoding="utf-8"))
            return Reply(**tree)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def put(self, backend: str, request: Request, reply: Reply) -> None:
        """Keeps a reply; a kill leaves all of it or nothing.

        Raises:
            InputError: The folder cannot be written to.
        """
        path = self._path(backend, request)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(dataclasses.asdict(reply)), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"cache {self._folder}: {error.strerror}; free space or choose another folder"
            ) from error

    def _path(self, backend: str, request: Request) -> Path:
        key = request_key(backend, request)
        return self._folder / key[:2] / f"{key}.json"


def request_key(backend: str, request: Request) -> str:
    """SHA-256 of everything that a reply depends on, in hexadecimal."""
    form, image = request.form, request.image
    words = [backend, form.name, dict(form.schema), form.max_tokens, request.prompt, list(image.shape)]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
