"""`pixelthink prepare`: a dataset built once, as ArrayRecord files that training and evaluation read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pixelthink_jax.data.config import FilesConfig
from pixelthink_jax.errors import InputError

_SHOWN_BROKEN = 5


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink prepare`."""

    dataset: Annotated[
        Literal[
            "shapes",
            "refcoco",
            "refcoco+",
            "refcocog",
            "grefcoco",
            "refcocog_840",
            "multi_object_840",
            "reasonseg",
            "reasonseg_diff",
            "own",
        ]
        | None,
        tyro.conf.Positional,
    ] = None
    """What to build: the ShapeReason world, or a dataset you have (docs/data.md)."""
    out: Path | None = None
    """Parent folder; the dataset goes to a folder of its own in it."""
    source: Path | None = None
    """Folder or file of the dataset, in the format it was published in; `shapes` has none."""
    splits: tuple[str, ...] = ()
    """Splits to build; those that were published if not given."""
    files: FilesConfig = field(default_factory=FilesConfig)
    build_training: bool = False
    """Of refcocog: a training set like the published 840x840 one, from the split train."""
    examples: int | None = None
    """Rows to build of each split, from its start (drawn, with --build-training); all if not given."""
    sizes: dict[str, int] | None = None
    """Of shapes: rows of each split, such as "train 2000 test 500"; every split at a small size if not given."""
    seed: int = 0
    """Of the world of shapes, or of the draw of --build-training."""
    inspect: Path | None = None
    """Only say what this file or folder holds, and how a config would name it."""


def main(args: Args) -> None:
    """Builds the dataset and says how to read it, or looks into a file."""
    if args.inspect is not None:
        _inspect(args.inspect)
        return
    if args.dataset is None:
        raise InputError("prepare: name a dataset, or give --inspect PATH; see pixelthink prepare --help")
    if args.out is None:
        raise InputError("prepare: --out is missing, the folder to build in")
    from pixelthink_jax.runtime.remote import check_out_dir

    check_out_dir(args.out)
    if args.dataset == "shapes":
        _build_shapes(args.out, args)
    else:
        _build_files(args.dataset, args.out, args)


def _build_shapes(out: Path, args: Args) -> None:
    from pixelthink_jax.data.shapes_builder import SMALL_SIZES, build_shapereason

    sizes = args.sizes or SMALL_SIZES
    folder = build_shapereason(out, sizes, seed=args.seed)
    _say_built(folder, dict(sizes))


def _build_files(dataset: str, out: Path, args: Args) -> None:
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.data.prepared import build_dataset
    from pixelthink_jax.data.published import count_remark

    sources = _sources(dataset, args)
    name = f"{dataset}_training" if args.build_training else dataset
    with progress_bar() as bar:
        tasks = {split: bar.add_task(split, total=len(rows), note="") for split, rows in sources.items()}
        built = build_dataset(
            name, sources, out, on_progress=lambda split, done, _: bar.update(tasks[split], completed=done)
        )
    _say_built(built.folder, built.rows)
    for split, rows in built.rows.items():
        broken = built.broken[split]
        remark = (
            ""
            if args.build_training or args.examples
            else f", {count_remark(dataset, split, rows + len(broken))}"
        )
        print(f"{split}: {rows + len(broken)} rows read{remark}; {len(broken)} broken and left out")
        for message in broken[:_SHOWN_BROKEN]:
            print(f"  {message}")
        if len(broken) > _SHOWN_BROKEN:
            print(f"  and {len(broken) - _SHOWN_BROKEN} more in {built.folder}/broken_rows.json")


def _sources(dataset: str, args: Args) -> dict[str, Any]:
    """The rows of each split to build."""
    from pixelthink_jax.data.published import PUBLISHED_ROWS
    from pixelthink_jax.data.sources import FirstPictures, RefCocoSource, open_files
    from pixelthink_jax.data.training_set import TrainingRows

    if args.source is None:
        raise InputError(f"prepare {dataset}: --source is missing, the folder of the dataset as published")
    if args.examples is not None and args.examples < 1:
        raise InputError(f"prepare: --examples must be at least 1, got {args.examples}")
    if args.build_training:
        if dataset != "refcocog":
            raise InputError(f"prepare {dataset}: --build-training is for refcocog")
        objects = RefCocoSource(dataset, args.source, "train", images=args.files.images, texts="first")
        return {"train": TrainingRows(objects, examples=args.examples, seed=args.seed)}
    splits = args.splits or tuple(PUBLISHED_ROWS.get(dataset, {})) or ("train",)
    sources = {split: open_files(dataset, args.source, split, args.files) for split in splits}
    if args.examples is None:
        return dict(sources)
    return {split: FirstPictures(rows, args.examples) for split, rows in sources.items()}


def _say_built(folder: Path, sizes: dict[str, int]) -> None:
    rows = ", ".join(f"{split} {count}" for split, count in sizes.items())
    print(
        f"built {folder} ({rows} rows); read it with data: {{name: array_record, path: {folder}, split: ...}}"
    )


def _inspect(path: Path) -> None:
    import yaml

    from pixelthink_jax.data.inspection import inspect_path

    found = inspect_path(path)
    print(f"{path}: {found.kind}, {found.rows} rows")
    for name, text in found.columns.items():
        print(f"  {name:<24}{text}")
    for remark in found.remarks:
        print(remark)
    if found.config is not None:
        print("in a config:")
        text = yaml.safe_dump({"data": found.config}, sort_keys=False, allow_unicode=True)
        print("  " + text.rstrip().replace("\n", "\n  "))
