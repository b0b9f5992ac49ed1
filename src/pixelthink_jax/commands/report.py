"""`pixelthink report`: finished evaluations side by side, as one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink report`."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Out folders of `pixelthink evaluate`, of an object store too; the others are compared with the first."""
    out: Path = Path("comparison.html")
    """The page to write."""


def main(args: Args) -> None:
    """Writes the page and prints the table."""
    from pixelthink_jax.errors import InputError
    from pixelthink_jax.evaluation.rows import write_text
    from pixelthink_jax.evaluation.runs_page import comparison_lines, runs_page
    from pixelthink_jax.evaluation.saved_runs import read_runs
    from pixelthink_jax.runtime.remote import check_out_dir

    if not args.runs:
        raise InputError("report: name at least one out folder of pixelthink evaluate")
    if args.out.is_dir():
        raise InputError(f"{args.out}: a folder, where a page is to be written; give --out FILE.html")
    check_out_dir(args.out.parent)
    runs = read_runs(args.runs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, runs_page(runs))
    print("\n".join(comparison_lines(runs)))
    print(f"the comparison is in {args.out}")
