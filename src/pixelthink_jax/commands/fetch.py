"""`pixelthink fetch`: a published model by name, with its licence, its revision and its hashes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink fetch`; without a name it lists the models."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Name of the model, or its id on the Hugging Face hub."""
    to: Path | None = None
    """Parent folder; the model goes to a folder of its own in it."""
    revision: str = "main"
    """Branch, tag or commit; a branch is resolved to its commit, which is recorded."""


def main(args: Args) -> None:
    """Prints what is about to be fetched, fetches it and says where it is."""
    from pixelthink_jax.fetch import PUBLISHED, SOURCE_FILE, download, find_model
    from pixelthink_jax.runtime.remote import check_out_dir

    if args.name is None:
        for model in PUBLISHED:
            print(
                f"{model.name:<18}{model.kind:<11}{model.gigabytes:>6.1f} GB  {model.repo}  ({model.licence})"
            )
        return
    if args.to is None:
        raise InputError("fetch: --to is missing; give the parent folder, such as --to models")
    check_out_dir(args.to)
    offer = find_model(args.name, revision=args.revision)
    print(f"model     {offer.model.repo}, {offer.model.kind}")
    print(f"revision  {offer.revision}, commit {offer.commit}")
    print(f"licence   {offer.licence}")
    print(f"size      {offer.bytes / 1e9:.2f} GB in {len(offer.files)} files", flush=True)
    folder = download(offer, args.to)
    print(f"verified  {len(offer.files)} files against the hub's hashes, recorded in {folder / SOURCE_FILE}")
