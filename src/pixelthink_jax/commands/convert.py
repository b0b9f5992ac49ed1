"""`pixelthink convert`: policies between runs, Orbax folders and Hugging Face folders."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink convert`."""

    source: Annotated[str | None, tyro.conf.Positional] = None
    """A run folder (the policy of its newest checkpoint), or a policy folder: Hugging Face, or Orbax; or its address on
    an object store."""
    out: str | None = None
    """The new folder; killed half-way, the same command continues."""
    to: Literal["huggingface", "orbax"] | None = None
    """Kind of the new folder; if not given, the kind that the source is not (a run is of the kind orbax)."""
    step: int | None = None
    """Of a run, the checkpoint; the newest if not given."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the new parameters; if not given, that of the folder, and of a run its export_dtype."""
    shard_gigabytes: float = 5.0
    """Size above which safetensors are split into several files."""
    adapter: bool = False
    """Of a run with lora, write the adapter alone, as a folder that PEFT loads; else it is merged."""
    verify: bool = False
    """Only read a converted folder again and compare every file with its recorded hash."""


def main(args: Args) -> None:
    """Converts and says what was made, or verifies."""
    if args.source is None:
        raise InputError("convert: name the run or the policy folder; see pixelthink convert --help")
    from pixelthink_jax.convert import convert, convert_adapter, verify_checksums

    if args.verify:
        print(f"{verify_checksums(args.source)} files are as recorded in {args.source}")
        return
    if args.out is None:
        raise InputError("convert: --out is missing; give the new folder, such as --out models/mine")
    if not args.shard_gigabytes > 0:
        raise InputError(f"convert: --shard-gigabytes must be positive, got {args.shard_gigabytes}")
    if args.adapter:
        made = convert_adapter(args.source, args.out, step=args.step)
    else:
        made = convert(
            args.source,
            args.out,
            to=args.to,
            step=args.step,
            dtype=args.dtype,
            max_shard_bytes=int(args.shard_gigabytes * 1e9),
        )
    step = f", step {made.source['step']}" if "step" in made.source else ""
    print(
        f"{made.kind}: {made.parameters:,} parameters of {args.source}{step}, {made.bytes / 1e9:.2f} GB, are in "
        f"{args.out}, with the hash of every file"
    )
