"""`pixelthink segment`: questions about images in; a thought, a box, two points and a mask for each out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixelthink_jax.commands._launch import LaunchFlags
from pixelthink_jax.errors import InputError

SEVERAL_PROCESSES = True


@dataclass(frozen=True)
class Args(LaunchFlags):
    """Flags of `pixelthink segment`."""

    policy: Path | None = None
    """Policy folder; the tiny one that travels with the package if not given."""
    segmenter: Path | None = None
    """Segmenter folder; the tiny one that travels with the package if not given."""
    image: Path | None = None
    """An image, or a folder of images that are all asked the same question; needs --query."""
    query: str | None = None
    """The question in words."""
    rows: Path | None = None
    """JSONL file of {"image": ..., "query": ...} rows, "id" optional; image paths are relative to the file."""
    interactive: bool = False
    """Keep the models loaded and ask for the next image and question, until the input ends."""
    out: Path | None = None
    """Folder for result.json, mask.png and overlay.png; with several questions, one folder in it for each."""
    instruction: str | None = None
    """A sentence added to every prompt, such as "Think briefly."."""
    max_new_tokens: int = 1024
    """Longest completion, thought and answer together."""
    max_thinking_tokens: int | None = None
    """Close the thought after that many tokens."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the policy; auto is bfloat16, and float32 on CPUs."""
    tensor: int = 1
    """Chips that the policy's matrices and attention heads are cut over."""


def main(args: Args) -> int:
    """Answers the questions; status 1 if a row, or an image of several, failed."""
    _check(args)
    from pixelthink_jax.commands import _answering

    if args.interactive:
        return _answering.converse(args)
    if args.rows is not None:
        return _answering.answer_rows(args, args.rows)
    assert args.image is not None and args.query is not None
    if args.image.is_dir():
        return _answering.answer_folder(args, args.image, args.query)
    return _answering.answer_one(args, args.image, args.query)


def _check(args: Args) -> None:
    """Refuses flags that do not say what to do, before anything heavy is imported."""
    modes = [args.image is not None, args.rows is not None, args.interactive]
    if sum(modes) != 1:
        raise InputError(
            "segment: give one of --image PATH with --query TEXT, --rows FILE.jsonl, --interactive"
        )
    if (args.image is not None) != (args.query is not None):
        raise InputError(
            "segment: --image and --query belong together; --rows and --interactive bring their own"
        )
    if args.query is not None and not args.query.strip():
        raise InputError(f"query {args.query!r}: it is empty; write what to find, such as 'the red cup'")
    if args.out is None and not args.interactive:
        raise InputError("segment: --out is missing; give the folder to write to")
