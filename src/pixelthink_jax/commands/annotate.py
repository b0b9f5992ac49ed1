"""`pixelthink annotate`: difficulty scores and reference chains for a dataset, written by a large model."""

import contextlib
from dataclasses import dataclass

import tyro

from pixelthink_jax.commands import config_path, settings_of
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.config import AnnotateConfig


@tyro.conf.configure(tyro.conf.AvoidSubcommands)
@dataclass(frozen=True)
class Args(AnnotateConfig):
    """Flags of `pixelthink annotate`; they are laid over the settings of the file."""

    config: str | None = None
    """YAML run config (see configs/); the flags below show its settings once it is given."""
    estimate: bool = False
    """Print calls, tokens and cost, and ask nobody."""
    yes: bool = False
    """Agree that images leave this machine, without being asked."""


def defaults(argv: list[str]) -> Args:
    """The settings of the file that `--config` names; for `--help` without one, a bare run."""
    path = config_path(argv)
    if path is not None:
        return Args(config=str(path), **settings_of(AnnotateConfig, load_config(AnnotateConfig, path)))
    if not {"-h", "--help"} & set(argv):
        raise InputError(
            "annotate: --config is missing; give a run config, such as --config configs/annotate_endpoint.yaml"
        )
    return Args()


def main(args: Args) -> int:
    """Estimates, asks for leave where images would go elsewhere, and annotates; 1 if rows failed."""
    from pixelthink_jax.commands._leave import agrees
    from pixelthink_jax.commands._progress import progress_bar
    from pixelthink_jax.judge.annotate import annotate, open_backend, plan_annotation
    from pixelthink_jax.runtime.remote import check_out_dir

    config = AnnotateConfig(**settings_of(AnnotateConfig, args))
    check_out_dir(config.out)
    plan = plan_annotation(config)
    if args.estimate:
        print(plan.estimate.text())
        return 0
    # Opened before anyone is asked anything: a missing key should not wait for an answer.
    backend = open_backend(config.backend)
    confirmed = args.yes or plan.leaves_for is None
    if not confirmed:
        confirmed = agrees("annotate", len(plan.pending), plan.leaves_for or "", plan.estimate.text())
    with contextlib.closing(backend), progress_bar() as bar:
        task = bar.add_task("annotating", total=len(plan.pending), note="")

        def show(done: int, failed: int, total: int) -> None:
            bar.update(task, completed=done + failed, note=f"{failed} failed" if failed else "")

        summary = annotate(config, plan, confirmed=confirmed, backend=backend, on_progress=show)
    usage = summary.usage
    cost = "" if summary.cost is None else f", {summary.cost:.2f} {summary.currency}"
    print(
        f"{summary.annotated} of {summary.rows} rows annotated, {summary.failed} failed; {usage.calls} calls "
        f"({usage.bad_answers} bad answers, {usage.retries} further tries), {usage.cached} replies from the cache; "
        f"{usage.input_tokens} tokens in, {usage.output_tokens} out{cost}; in {config.out}"
    )
    return int(summary.failed > 0)
