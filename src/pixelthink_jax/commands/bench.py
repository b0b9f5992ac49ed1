"""`pixelthink bench`: how fast generation and image encoding are on this machine, alone or against transformers."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink bench`."""

    what: Annotated[Literal["generate", "segmenter", "grpo", "data"], tyro.conf.Positional]
    """Greedy generation of a small Qwen2.5-VL, the encoder of SAM2 tiny at 1024x1024, a GRPO step with the prefix
    shared and repeated, or reading of 840x840 training examples on one core."""
    against: Literal["transformers"] | None = None
    """Time transformers in PyTorch too, in turns, with the same weights."""
    rounds: int = 5
    """Timed calls of each, after one to warm up."""
    batch_sizes: tuple[int, ...] = (1, 16)
    """Prompts decoded together, of generate."""
    new_tokens: int = 64
    """Tokens of each completion, of generate and grpo."""
    prompts: int = 1
    """Questions of a step, of grpo."""
    group_size: int = 8
    """Completions of each, of grpo."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.new_tokens < 1:
            raise InputError(
                f"rounds must be at least 1, and new_tokens: got {self.rounds} and {self.new_tokens}"
            )
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InputError(f"batch sizes must be at least 1, got {list(self.batch_sizes)}")


def main(args: Args) -> None:
    """Prints a table of medians."""
    threads = _use_these_cores(args.against is not None)
    rows = _measure(args)
    if args.json:
        print(
            json.dumps(
                {"machine": _machine(threads), "measurements": [asdict(row) for row in rows]}, indent=2
            )
        )
        return
    print(", ".join(f"{name} {value}" for name, value in _machine(threads).items()))
    for row in rows:
        spread = f"{row.fastest:.3f} to {row.slowest:.3f} s"
        print(
            f"{row.task:<36}{row.contestant:<14}{row.seconds:>8.3f} s  {row.per_second:>8.2f} {row.unit}/s  ({spread})"
        )
    for task in dict.fromkeys(row.task for row in rows):
        first, *others = (row for row in rows if row.task == task)
        for other in others:
            print(f"{task}: {first.per_second / other.per_second:.2f} times as fast as {other.contestant}")


def _measure(args: Args) -> list[Any]:
    from pixelthink_jax.bench import measure_encoding, measure_generation, measure_grpo, measure_reading
    from pixelthink_jax.verify.yardstick import TransformersPolicy, TransformersSegmenter

    if args.what == "data":
        return measure_reading(rounds=args.rounds)
    if args.what == "segmenter":
        rival = ("transformers", TransformersSegmenter) if args.against else None
        return measure_encoding(rounds=args.rounds, rival=rival)
    rival = ("transformers", TransformersPolicy) if args.against else None
    if args.what == "grpo":
        return measure_grpo(
            prompts=args.prompts,
            group_size=args.group_size,
            new_tokens=args.new_tokens,
            rounds=args.rounds,
            rival=rival,
        )
    return measure_generation(
        batch_sizes=args.batch_sizes, rounds=args.rounds, new_tokens=args.new_tokens, rival=rival
    )


def _use_these_cores(torch_too: bool) -> int:
    """Gives PyTorch as many threads as JAX takes: one for each core this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch_too:
        from pixelthink_jax.verify.yardstick import import_torch

        import_torch().set_num_threads(cores)
    return cores


def _machine(cores: int) -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {"device": f"{device.platform} {device.device_kind}", "cores": cores, "jax": jax.__version__}
