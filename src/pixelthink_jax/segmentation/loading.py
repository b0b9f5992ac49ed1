"""The two models of a command: folders someone gave, or the tiny ones that travel with the package."""

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Literal

import jax

from pixelthink_jax.errors import InputError
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import FORMATS, FormatName
from pixelthink_jax.runtime.compiled_programs import keep_compiled_programs
from pixelthink_jax.runtime.mesh import own_mesh
from pixelthink_jax.runtime.remote import on_this_machine
from pixelthink_jax.segmenter import Segmenter

Dtype = Literal["auto", "float32", "bfloat16"]

TINY_POLICY = "pixelthink-tiny"
TINY_SEGMENTER = "sam2-tiny-shapes"


def default_folder(name: str) -> Path:
    """Folder of one of the tiny models.

    Raises:
        InputError: It did not travel with this installation.
    """
    folder = Path(str(resources.files("pixelthink_jax"))) / "assets" / name
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{name}: this installation has no such model in {folder}; give model folders with --policy and "
            "--segmenter, or reinstall the package"
        )
    return folder


def model_folder(name: str) -> Path:
    """A model folder as given, of an object store its copy here, or that of a tiny model by its name.

    Raises:
        InputError: There is no such folder.
    """
    path = on_this_machine(name)
    if path.exists():
        return path
    if name in (TINY_POLICY, TINY_SEGMENTER):
        return default_folder(name)
    raise InputError(f"model {name}: no such folder; give one, or {TINY_POLICY} or {TINY_SEGMENTER}")


def load_policy(
    folder: Path | None,
    *,
    dtype: Dtype = "auto",
    mesh: jax.sharding.Mesh | None = None,
    format: FormatName | None = None,
) -> Policy:
    """Opens a policy with its processor, so that a folder without a tokenizer is refused before any work.

    From here on compiled programs are kept on disk where that is safe, see `runtime.compiled_programs`.

    Args:
        folder: Hugging Face folder; None takes the tiny policy.
        dtype: Of parameters and computation; `auto` is bfloat16, and float32 on CPUs, where that is faster.
        mesh: See `Policy.from_pretrained`.
        format: How it is asked and read; None leaves that to its folder.

    Raises:
        InputError: See `Policy.from_pretrained` and `Processor.from_pretrained`.
    """
    keep_compiled_programs()
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    policy = Policy.from_pretrained(folder or default_folder(TINY_POLICY), dtype=dtype, mesh=mesh)
    processor = policy.processor
    if format is None:
        return policy
    return replace(policy, loaded_processor=replace(processor, format=FORMATS[format]))


def load_segmenter(folder: Path | None, *, mesh: jax.sharding.Mesh | None = None) -> Segmenter:
    """Opens a segmenter in float32; compiled programs are kept from here on, as by `load_policy`.

    Args:
        folder: As `Segmenter.from_pretrained` takes it; None takes the tiny segmenter.
        mesh: See there.

    Raises:
        InputError: See `Segmenter.from_pretrained`.
    """
    keep_compiled_programs()
    return Segmenter.from_pretrained(folder or default_folder(TINY_SEGMENTER), mesh=mesh)


def load_models(
    policy: Path | None,
    segmenter: Path | None,
    *,
    dtype: Dtype = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Policy, Segmenter]:
    """Opens both models, the small one first: a mistake in its folder should not wait for the large one.

    Of a mesh of several processes each has a segmenter of its own.
    """
    loaded = load_segmenter(segmenter, mesh=own_mesh(mesh))
    return load_policy(policy, dtype=dtype, mesh=mesh), loaded
