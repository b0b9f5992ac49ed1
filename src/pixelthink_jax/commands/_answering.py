"""What `pixelthink segment` does once its flags are known: one question, many, or a conversation."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from pixelthink_jax.commands._progress import progress_bar, say_above
from pixelthink_jax.commands.segment import Args
from pixelthink_jax.errors import InputError
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.images import load_image
from pixelthink_jax.runtime.hosts import agreed, is_first, together
from pixelthink_jax.runtime.mesh import MeshConfig, one_mesh
from pixelthink_jax.runtime.remote import check_out_dir
from pixelthink_jax.segmentation import (
    load_models,
    segment,
    segment_nothing,
    write_segmentation,
)
from pixelthink_jax.segmentation.questions import BadRow, Question, folder_questions, read_rows
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Segmentation


@dataclass(frozen=True)
class Asker:
    """Both models and how they are asked.

    Attributes:
        policy: Thinks and points; spread over all processes where there are several.
        segmenter: Draws; each process has one.
        args: The flags.
    """

    policy: Policy
    segmenter: Segmenter
    args: Args

    def __call__(self, image: np.ndarray, query: str) -> Segmentation:
        """Asks about one image; the other processes ask at the same time, or `nothing`."""
        return segment(
            self.policy,
            self.segmenter,
            image,
            query,
            instruction=self.args.instruction,
            max_new_tokens=self.args.max_new_tokens,
            max_thinking_tokens=self.args.max_thinking_tokens,
        )

    def nothing(self) -> None:
        """Takes part where only other processes ask."""
        limit, thinking = self.args.max_new_tokens, self.args.max_thinking_tokens
        segment_nothing(self.policy, max_new_tokens=limit, max_thinking_tokens=thinking)


def answer_one(args: Args, path: Path, query: str) -> int:
    """Answers one question; any mistake ends the command before `--out` exists."""
    assert args.out is not None
    check_out_dir(args.out)
    # Read before the models are: a wrong path should not wait for them.
    image = agreed(lambda: load_image(path))
    ask = _asker(args)
    if not is_first():
        ask.nothing()
        return 0
    result = ask(image, query)
    write_segmentation(result, image, args.out)
    _describe(result, args.out)
    return 0


def answer_folder(args: Args, folder: Path, query: str) -> int:
    """Asks the same about every image of a folder."""
    return _answer_many(args, folder_questions(folder, query))


def answer_rows(args: Args, path: Path) -> int:
    """Asks the questions of a JSONL file."""
    return _answer_many(args, read_rows(path))


def converse(args: Args) -> int:
    """Asks for images and questions until the input ends; a mistake is told and the conversation goes on."""
    if jax.process_count() > 1:
        raise InputError("segment: --interactive is for one process; give the questions as --rows")
    if args.out is not None:
        check_out_dir(args.out)
    ask, image = _asker(args), None
    print("An image path, then a question; an empty path keeps the image; end with Ctrl-D.")
    while True:
        try:
            path = input("image: ").strip()
            if path or image is None:
                image = load_image(Path(path).expanduser())
            result = ask(image, input("question: "))
        except EOFError:
            print()
            return 0
        except InputError as error:
            print(_one_line(f"pixelthink: error: {error}"), file=sys.stderr)
            continue
        place = None if args.out is None else _next_place(args.out)
        if place is not None:
            write_segmentation(result, image, place)
        _describe(result, place)


def _asker(args: Args) -> Asker:
    """Loads both models."""
    mesh = None
    if args.tensor > 1 or jax.process_count() > 1:
        mesh = one_mesh(MeshConfig(tensor=args.tensor))
    return Asker(*load_models(args.policy, args.segmenter, dtype=args.dtype, mesh=mesh), args)


def _answer_many(args: Args, rows: Sequence[Question | BadRow]) -> int:
    """Answers what can be answered, each process its part of the rows; each failure is one line on stderr."""
    assert args.out is not None
    check_out_dir(args.out)
    ask, failed, unanswered = _asker(args), 0, 0
    processes = jax.process_count()
    with progress_bar() as bar:
        task = bar.add_task("segmenting", total=len(rows), note="")
        for start in range(0, len(rows), processes):
            place = start + jax.process_index()
            if place >= len(rows):
                ask.nothing()
                continue
            try:
                unanswered += _answer_row(ask, rows[place], args.out).answer is None
            except InputError as error:
                failed += 1
                say_above(bar, _one_line(f"pixelthink: {rows[place].name}: {error}"))
            bar.update(task, advance=processes, note=f"{failed} failed" if failed else "")
    counts = together(lambda: (failed, unanswered))
    failed, unanswered = (sum(column) for column in zip(*counts, strict=True))
    print(
        f"{len(rows) - failed} answered ({unanswered} without a usable answer), {failed} failed; in {args.out}"
    )
    return int(failed > 0)


def _answer_row(ask: Asker, row: Question | BadRow, out: Path) -> Segmentation:
    try:
        if isinstance(row, BadRow):
            raise InputError(row.problem)
        image = load_image(row.image)
    except InputError:
        ask.nothing()
        raise
    result = ask(image, row.query)
    write_segmentation(result, image, out / row.name)
    return result


def _next_place(out: Path) -> Path:
    """The first numbered folder that is not there yet."""
    number = 1
    while (out / f"{number:04d}").exists():
        number += 1
    return out / f"{number:04d}"


def _describe(result: Segmentation, place: Path | None) -> None:
    """Prints an answer for a reader."""
    tokens = f"{len(result.completion.token_ids)}, {result.thinking_tokens} of them thought"
    rows = {
        "question": result.query,
        "thought": result.thinking or "(none)",
        "answer": _answer_line(result),
        "mask": f"{result.mask.mean():.1%} of the image, predicted IoU {result.mask_score:.2f}",
        "tokens": f"{tokens}, uncertainty {result.completion.uncertainty:.3f}",
        "seconds": ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.seconds.items()),
        "written": "nothing, for want of --out" if place is None else str(place),
    }
    for name, text in rows.items():
        print(f"{name:<10}{_one_line(text)}")


def _answer_line(result: Segmentation) -> str:
    if result.answer is None:
        return f"none: {result.answer_error}"
    left, top, right, bottom = (f"{value:.0f}" for value in result.answer.box_xyxy)
    points = " ".join(f"({x:.0f}, {y:.0f})" for x, y in result.answer.points_xy)
    return f"box ({left}, {top}) to ({right}, {bottom}), points {points}"


def _one_line(text: str) -> str:
    r"""A text in one line; control characters of a model or a file are not passed on to the terminal.

    >>> _one_line("a\n b\x1b[2J")
    'a b?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
