"""What `pixelthink doctor` tries for real: a checkpoint where runs will write theirs, a row of the data of a config."""

import time
import uuid
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError

_TRIED_BYTES = 64 * 2**20


def try_checkpoint(folder: str) -> str:
    """Writes a checkpoint of 64 MiB below a folder or address, reads it again, removes it, says how fast that was.

    Raises:
        InputError: One of the three does not work, or what is read is not what was written.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from etils import epath

    from pixelthink_jax.runtime.checkpoints import Checkpoints
    from pixelthink_jax.runtime.remote import is_remote, remote_path

    parent = remote_path(folder) if is_remote(folder) else epath.Path(folder)
    there, name = parent.exists(), f"doctor-{uuid.uuid4().hex[:8]}"
    state = {"bits": jnp.arange(_TRIED_BYTES // 4, dtype=jnp.uint32), "step": jnp.int32(1)}
    began = time.perf_counter()
    try:
        checkpoints = Checkpoints(f"{folder}/{name}", every=1)
        checkpoints.save(1, state, {"tried": True})
        checkpoints.close()
        written = time.perf_counter()
        checkpoints = Checkpoints(f"{folder}/{name}", every=1)
        _, back, extra = checkpoints.restore(state)
        checkpoints.close()
        read = time.perf_counter()
        (parent / name if there else parent).rmtree()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: no checkpoint can be written, read and removed there ({reason:.200}); check permissions and "
            "credentials"
        ) from error
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), state, back)
    if extra != {"tried": True} or not all(jax.tree.leaves(same)):
        raise InputError(
            f"{folder}: a checkpoint read there is not the one that was written; use another disk"
        )
    mib = _TRIED_BYTES / 2**20
    return f"written at {mib / (written - began):.0f} MiB/s, read at {mib / (read - written):.0f}, removed: {folder}"


def try_row(path: Path) -> str:
    """Reads the first row of the data of a run config and says what it is.

    Raises:
        InputError: The config or the row cannot be used.
    """
    from pixelthink_jax.config import load_config, read_tree

    tree: Any = read_tree(path)
    if isinstance(tree, dict) and "stages" in tree:
        from pixelthink_jax.sft.config import SftConfig
        from pixelthink_jax.sft.data import open_data

        source = open_data(load_config(SftConfig, path).stages[0].data, None)
    else:
        from pixelthink_jax.data.sources import open_source
        from pixelthink_jax.evaluation.config import EvalConfig
        from pixelthink_jax.grpo.config import TrainConfig

        evaluates = isinstance(tree, dict) and not tree.keys() <= TrainConfig.__dataclass_fields__.keys()
        source = open_source(**vars(load_config(EvalConfig if evaluates else TrainConfig, path).data))
    row = source[0]
    height, width = row.image.shape[:2]
    target = row.solution or row.completion or "no solution"
    return f"1 of {len(source)}: {row.id}, {width} x {height} pixels, {row.query!r:.60} -> {target:.80}"
