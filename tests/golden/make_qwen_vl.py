"""Rebuilds `qwen_vl.npz`: transformers' logits for the small model, whose weights follow from tensor names."""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("qwen_vl.npz")
EVERY = 5


def main() -> None:
    """Writes the logits of every fifth real token of a few batches."""
    from tests.models.qwen_small import SMALL, TIED, make_batch
    from tests.parity.conftest import DECLARED  # noqa: F401 - makes transformers importable
    from tests.parity.qwen_twin import make_twin, twin_logits

    arrays = {}
    for name, config in {"untied": SMALL, "tied": TIED}.items():
        twin = make_twin(config)
        for case in ("one size", "several images", "right padding")[: 3 if config is SMALL else 1]:
            batch = make_batch(case)
            arrays[f"{name}/{case}"] = twin_logits(twin, batch, config)[batch.real][::EVERY]
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
