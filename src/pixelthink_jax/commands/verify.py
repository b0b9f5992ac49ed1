"""`pixelthink verify`: whether real weights work here, check by check."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink verify`; without --policy and --segmenter the tiny models are looked at."""

    policy: Path | None = None
    """Policy folder."""
    segmenter: Path | None = None
    """Segmenter folder, or an original .pt file."""
    against: Literal["transformers"] | None = None
    """Compare logits with transformers in PyTorch, where that is installed."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the policy; auto is bfloat16, and float32 on CPUs."""
    max_new_tokens: int = 512
    """Longest completion of the policy."""
    json: bool = False
    """Print the checks as one JSON list at the end."""


def main(args: Args) -> int:
    """Prints each check when it is done; status 1 if one of them failed."""
    checks = []
    for check in _checks(args):
        checks.append(check)
        if not args.json:
            print(f"{check.state:<5} {check.what:<31} {check.says}", flush=True)
    failed = [check.what for check in checks if check.state == "fail"]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
            if failed
            else "no check failed"
        )
    return int(bool(failed))


def _checks(args: Args) -> Iterator[Any]:
    from pixelthink_jax.verify import verify_policy, verify_segmenter
    from pixelthink_jax.verify.yardstick import import_torch

    if args.against:
        import_torch()  # Its absence should not be found after minutes of work.
    both = args.policy is None and args.segmenter is None
    if args.segmenter is not None or both:
        yield from verify_segmenter(args.segmenter, against=bool(args.against))
    if args.policy is not None or both:
        yield from verify_policy(
            args.policy, dtype=args.dtype, against=bool(args.against), max_new_tokens=args.max_new_tokens
        )
