"""A whole evaluation from its config: models and data opened, questions asked, results written."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig, Style
from pixelthink_jax.evaluation.details import Details, details_of
from pixelthink_jax.evaluation.efficiency import mean_gflops
from pixelthink_jax.evaluation.evaluation_page import evaluation_page
from pixelthink_jax.evaluation.judging import check_leave, judged_rows
from pixelthink_jax.evaluation.length_table import LengthTable, StyleProgress, style_prefix
from pixelthink_jax.evaluation.protocols import evaluation_protocol
from pixelthink_jax.evaluation.resume import StyleFiles, claim_folder
from pixelthink_jax.evaluation.rows import Row, write_text
from pixelthink_jax.evaluation.runner import BadExample, Evaluator
from pixelthink_jax.runtime.hosts import from_first
from pixelthink_jax.runtime.mesh import one_mesh, own_mesh
from pixelthink_jax.runtime.remote import check_out_dir, mirrored
from pixelthink_jax.segmentation import load_policy, load_segmenter
from pixelthink_jax.segmentation.loading import model_folder


def evaluate(
    config: EvalConfig, *, on_progress: StyleProgress | None = None, confirmed: bool = False
) -> LengthTable:
    """Runs an evaluation and writes its rows, summary, table and report to `config.out`, which may be an object store.

    What an earlier run of the same evaluation has done is read and not done again, see `evaluation.resume`. Where
    several processes run, all of them call this, each reads and scores its share, and the first writes.

    Args:
        config: Models, questions and chain styles.
        on_progress: Called with (style, examples done, examples in all) after each window of batches.
        confirmed: Somebody agreed that the images may leave this machine to be judged.

    Raises:
        InputError: A model, the dataset or the folder cannot be used; nothing has been written then. Or an example
            cannot be evaluated and `bad_rows` says to stop; what was computed before it is kept.
    """
    check_leave(config, confirmed=confirmed)
    with mirrored(config.out) as folder:
        return _evaluate(config, check_out_dir(folder), on_progress)


def _evaluate(config: EvalConfig, folder: Path, on_progress: StyleProgress | None) -> LengthTable:
    """The evaluation, whose files go to `folder`."""
    policy_folder = model_folder(config.policy)
    segmenter_folder = None if config.segmenter is None else model_folder(config.segmenter)
    source = open_source(**vars(config.data))
    mesh = one_mesh(config.mesh)
    segmenter = None if segmenter_folder is None else load_segmenter(segmenter_folder, mesh=own_mesh(mesh))
    policy = load_policy(policy_folder, dtype=config.dtype, format=config.format, mesh=mesh)
    from_first(lambda: claim_folder(folder, config, (policy_folder, segmenter_folder, config.data.path)))
    size = config.size_billions or sum(leaf.size for leaf in jax.tree.leaves(policy.params)) / 1e9
    rows: dict[str, list[Row]] = {}
    details: dict[str, Details] = {}
    trees: dict[str, dict[str, Any]] = {}
    for style in config.styles:
        prefix = config.generation.completion_prefix if style == "free" else style_prefix(style)
        evaluator = Evaluator(
            policy,
            segmenter,
            dataclasses.replace(config.generation, completion_prefix=prefix),
            evaluation_protocol(config.protocol),
            keep_going=config.bad_rows == "count",
        )
        found, bad = _style_rows(evaluator, source, StyleFiles(folder, style), style, on_progress)
        judged = from_first(lambda found=found: judged_rows(config, found, source, folder))
        rows[style], judging = judged
        _check_counted(rows[style], bad)
        gflops = mean_gflops(found, policy.config, segmenter)
        details[style] = details_of(
            rows[style], bad=len(bad), size_billions=size, gflops=gflops, seed=config.seed
        )
        trees[style] = details[style].tree() | ({"judging": judging.tree()} if judging else {})
    table = LengthTable(rows, {style: found.summaries for style, found in details.items()}, trees)
    about = to_tree(config) | {"role": config.split_role, "chosen_on": config.chosen_on}

    def write() -> None:
        table.save(folder, about=about)
        page = evaluation_page(about, rows, details, source, reference=config.published)
        write_text(folder / "report.html", page)

    from_first(write)
    return table


def _style_rows(
    evaluator: Evaluator,
    source: ExampleSource,
    files: StyleFiles,
    style: Style,
    on_progress: StyleProgress | None,
) -> tuple[list[Row], list[BadExample]]:
    """Rows of one chain style, in the order of the dataset: those that are there, and the others computed."""
    (rows, bad), finished = from_first(lambda: (files.load(), files.finished.is_file()))
    if finished and len(rows) + len(bad) == len(source):
        return rows, bad
    done = {row.index for row in rows} | {item.index for item in bad}
    left = [index for index in range(len(source)) if index not in done]
    for window in evaluator.windows(source, left):
        from_first(lambda window=window: files.append(window))
        rows += [item for item in window if isinstance(item, Row)]
        bad += [item for item in window if isinstance(item, BadExample)]
        if on_progress:
            on_progress(style, len(rows) + len(bad), len(source))
    rows.sort(key=lambda row: row.index)
    from_first(lambda: files.finish(rows))
    return rows, bad


def _check_counted(rows: list[Row], bad: list[BadExample]) -> None:
    if not any(row.skipped is None for row in rows):
        why = (
            bad[0].problem
            if bad
            else f"the protocol skips all of them, the first because of: {rows[0].skipped}"
        )
        raise InputError(f"data: none of its {len(rows) + len(bad)} examples counts; {why}")
