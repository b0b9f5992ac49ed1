"""What the two dataset builders share: a TFDS builder run in silence, into a folder that is not there yet."""

import contextlib
import io
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError


def write_dataset(builder: Any) -> Path:
    """Runs a TFDS builder without its bars, and without its lines about downloads that do not happen.

    Returns:
        The folder of the dataset.

    Raises:
        InputError: The folder is there already.
    """
    import tensorflow_datasets as tfds

    folder = Path(builder.data_dir)
    if folder.exists():
        raise InputError(f"{folder} already exists: remove it or choose another output folder")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return folder
