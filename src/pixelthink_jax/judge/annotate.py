"""A dataset scored and explained by a large model: difficulty, and a short and a long reference chain a row.

What is written has the names of the released labels (`image_id`, `difficulty_score_model`) and of our
ReasonSeg-Diff rows (`reasoning_short`, `reasoning_long`), so `difficulty.source: file` reads it as it is. A
run continues where it stopped: rows that are there are left alone, rows that failed are asked again.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.asking import Filled, Usage, fill_all
from pixelthink_jax.judge.cache import ReplyCache
from pixelthink_jax.judge.config import AnnotateConfig, EndpointConfig, LocalConfig, is_this_machine
from pixelthink_jax.judge.estimate import Estimate, cost_of, estimate_requests
from pixelthink_jax.judge.prompts import (
    CHAINS,
    DIFFICULTY,
    VERSION,
    SubScores,
    chains_form,
    difficulty_form,
    fill_in,
    target_note,
)
from pixelthink_jax.judge.protocol import Backend, Request
from pixelthink_jax.judge.rows import RowFile
from pixelthink_jax.types import Example

_SAMPLED_ROWS = 32
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Plan:
    """A run before anything is asked.

    Attributes:
        source: The rows.
        pending: Places of the rows still to be done.
        done: Rows done by an earlier run.
        estimate: What the pending rows would take; cached replies are not looked for.
        leaves_for: Where images would be sent, if that is not this machine.
    """

    source: ExampleSource
    pending: tuple[int, ...]
    done: int
    estimate: Estimate
    leaves_for: str | None


@dataclass(frozen=True)
class Summary:
    """What is in the folder after a run, over all runs that wrote to it.

    Attributes:
        rows: Rows of the dataset.
        annotated: Rows in annotations.jsonl.
        failed: Rows that failed and were not mended by a later run.
        repeated_ids: Ids of several rows: a reader by id takes the last.
        usage: Calls, tries and tokens, those of failed rows included; replies that a stop cut off are not in it.
        cost: By the prices of the config; None without prices.
        currency: Of the cost.
    """

    rows: int
    annotated: int
    failed: int
    repeated_ids: int
    usage: Usage
    cost: float | None
    currency: str


@dataclass
class _Run:
    """The open files of a run, and its count of rows failed one after another."""

    config: AnnotateConfig
    judge: str
    annotations: RowFile
    failures: RowFile
    in_a_row: int = 0
    failed: int = 0
    done: int = 0
    ids: dict[int, tuple[str, str]] = field(default_factory=dict)

    def record(self, row: int, filled: Sequence[Filled]) -> None:
        """Writes a row to the file where it belongs."""
        usage = sum((form.usage for form in filled), Usage())
        problems = {t: f.problem for t, f in zip(self.config.tasks, filled, strict=True) if f.problem}
        image_id, query = self.ids.pop(row)
        if problems:
            task, problem = next(iter(problems.items()))
            self.fail(row, image_id, f"{task}: {problem}", usage)
            return
        values: dict[str, Any] = {}
        for form in filled:
            if isinstance(form.value, SubScores):
                values |= {"difficulty_score_model": form.value.mean, "level": form.value.level}
            values |= dataclasses.asdict(form.value)
        about = {"judge": self.judge, "prompts": _prompts_name(self.config)}
        self.annotations.append(
            {"row": row, "image_id": image_id, "query": query, **values, **about, "usage": _counts(usage)}
        )
        self.done, self.in_a_row = self.done + 1, 0

    def fail(self, row: int, image_id: str | None, problem: str, usage: Usage) -> None:
        """Writes a row that could not be done; too many in a row end the run."""
        self.failures.append({"row": row, "image_id": image_id, "problem": problem, "usage": _counts(usage)})
        self.failed, self.in_a_row = self.failed + 1, self.in_a_row + 1
        if self.in_a_row >= self.config.stop_after:
            raise InputError(
                f"annotate: {self.in_a_row} rows failed one after another, the last of them row {row} ({problem}); "
                f"see {self.config.out}/failures.jsonl, mend the cause and run again, or raise stop_after"
            )


def plan_annotation(config: AnnotateConfig) -> Plan:
    """Opens the dataset and the folder, and says what is left to do; nothing is written or asked.

    Raises:
        InputError: The dataset cannot be opened, or the folder holds a run of other settings.
    """
    data = config.data
    source = open_source(**vars(data))
    _check_settings(config)
    finished = {row["row"] for row in RowFile(Path(config.out) / "annotations.jsonl").rows()}
    pending = tuple(row for row in range(len(source)) if row not in finished)
    step = max(1, len(pending) // _SAMPLED_ROWS)
    samples = []
    for row in pending[::step][:_SAMPLED_ROWS]:
        # A row that cannot be read is told and counted when its turn comes.
        with contextlib.suppress(InputError):
            samples.append(row_requests(config, source[row]))
    backend, leaves = config.backend, None
    if isinstance(backend, EndpointConfig) and not is_this_machine(backend.base_url):
        leaves = backend.base_url
    return Plan(
        source=source,
        pending=pending,
        done=len(source) - len(pending),
        estimate=estimate_requests(samples, len(pending), backend),
        leaves_for=leaves,
    )


def annotate(
    config: AnnotateConfig,
    plan: Plan,
    *,
    confirmed: bool = False,
    backend: Backend | None = None,
    on_progress: Progress | None = None,
) -> Summary:
    """Does the pending rows of a plan; a row is written as soon as it is done, in any order.

    Args:
        config: The run.
        plan: Made from it.
        confirmed: Somebody agreed that the images may leave this machine.
        backend: Who is asked; None opens that of the config.
        on_progress: Called with (rows done, rows failed, rows pending at the start) after each row.

    Raises:
        InputError: Nothing at all can be answered, too many rows failed one after another, or images would leave
            this machine and nobody agreed. Rows done until then are kept.
    """
    if plan.leaves_for is not None and not confirmed:
        raise InputError(
            f"annotate: images of {len(plan.pending)} rows would be sent to {plan.leaves_for}; confirm it (--yes)"
        )
    if backend is None:
        with contextlib.closing(open_backend(config.backend)) as opened:
            return annotate(config, plan, confirmed=confirmed, backend=opened, on_progress=on_progress)
    out = Path(config.out)
    run = _Run(config, backend.name, RowFile(out / "annotations.jsonl"), RowFile(out / "failures.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(_settings(config), indent=2) + "\n", encoding="utf-8")
    run.annotations.cut_torn_line()
    run.failures.cut_torn_line()
    cache = ReplyCache(config.cache or out / "cache")
    try:
        jobs = _jobs(run, plan)
        with contextlib.closing(fill_all(backend, jobs, cache=cache, attempts=config.attempts)) as results:
            for row, filled in results:
                run.record(row, filled)
                if on_progress is not None:
                    on_progress(run.done, run.failed, len(plan.pending))
    finally:
        summary = summarize(config, rows=len(plan.source))
        text = json.dumps(dataclasses.asdict(summary), indent=2)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def open_backend(config: EndpointConfig | LocalConfig) -> Backend:
    """The back end that a config names.

    Raises:
        InputError: It cannot be opened; an endpoint is not contacted yet.
    """
    if isinstance(config, EndpointConfig):
        from pixelthink_jax.judge.endpoint import Endpoint

        return Endpoint(config)
    from pixelthink_jax.judge.local import LocalBackend

    return LocalBackend.load(config)


def row_requests(config: AnnotateConfig, example: Example) -> list[Request]:
    """What is asked about one row, in the order of `config.tasks`.

    Raises:
        InputError: The row's solution cannot be read.
    """
    texts = {
        "difficulty": config.prompts.difficulty or DIFFICULTY,
        "chains": config.prompts.chains or CHAINS,
    }
    forms = {"difficulty": difficulty_form, "chains": chains_form}
    target = target_note(example)
    return [
        Request(
            forms[task](config.max_tokens),
            fill_in(texts[task], query=example.query, target=target),
            example.image,
        )
        for task in config.tasks
    ]


def summarize(config: AnnotateConfig, *, rows: int) -> Summary:
    """Counts what is in the folder of a run.

    Raises:
        InputError: A file there is not what a run writes.
    """
    out, backend = Path(config.out), config.backend
    annotated = RowFile(out / "annotations.jsonl").rows()
    failures = RowFile(out / "failures.jsonl").rows()
    usage = sum((Usage(**row["usage"]) for row in [*annotated, *failures]), Usage())
    ids = Counter(row["image_id"] for row in annotated)
    done = {row["row"] for row in annotated}
    return Summary(
        rows=rows,
        annotated=len(done),
        failed=len({row["row"] for row in failures} - done),
        repeated_ids=sum(count > 1 for count in ids.values()),
        usage=usage,
        cost=cost_of(usage.input_tokens, usage.output_tokens, backend),
        currency=backend.currency if isinstance(backend, EndpointConfig) else "",
    )


def _jobs(run: _Run, plan: Plan) -> Iterator[tuple[int, list[Request]]]:
    """The requests of each row; a row that cannot be read fails here."""
    for row in plan.pending:
        try:
            example = plan.source[row]
            requests = row_requests(run.config, example)
        except InputError as error:
            run.fail(row, None, f"row cannot be read: {error}", Usage())
            continue
        run.ids[row] = (example.id, example.query)
        yield row, requests


def _counts(usage: Usage) -> dict[str, int]:
    return {name: count for name, count in dataclasses.asdict(usage).items() if count}


def _prompts_name(config: AnnotateConfig) -> str:
    own = config.prompts.difficulty or config.prompts.chains
    return f"{VERSION}, changed" if own else VERSION


def _settings(config: AnnotateConfig) -> dict[str, Any]:
    """What rows of one folder have in common; speed, prices and the number of examples may change."""
    tree = to_tree(config)
    backend = {
        key: value
        for key, value in tree["backend"].items()
        if key in ("kind", "base_url", "model", "policy", "dtype", "temperature")
        or key.startswith("max_image")
    }
    data = {key: value for key, value in tree["data"].items() if key != "examples"}
    kept = {key: tree[key] for key in ("tasks", "prompts", "max_tokens")}
    return json.loads(json.dumps({"version": VERSION, "data": data, "backend": backend, **kept}))


def _check_settings(config: AnnotateConfig) -> None:
    path = Path(config.out) / "settings.json"
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON; choose another --out") from error
    mine = _settings(config)
    keys = sorted(key for key in mine if there.get(key) != mine[key])
    if keys:
        key = keys[0]
        raise InputError(
            f"{config.out}: it holds a run with {key} {there.get(key)!r}, not {mine[key]!r}; choose another --out"
        )
