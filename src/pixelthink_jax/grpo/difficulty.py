"""How difficult a question is, from outside or from the policy itself (method section 4)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import DifficultyConfig
from pixelthink_jax.types import Example

LOWEST, HIGHEST = 1.0, 10.0
RELEASED_DEFAULT = 3.0
"""What the released code takes for a missing score: the easy branch."""


@runtime_checkable
class Difficulty(Protocol):
    """Scores of the questions of a step."""

    def __call__(
        self, examples: Sequence[Example], success: Float[np.ndarray, "b g"]
    ) -> Float[np.ndarray, " b"]:
        """One score a question, NaN where there is none.

        Args:
            examples: The questions.
            success: 1 where a completion of the question found its box, else 0.
        """
        ...


def from_column(examples: Sequence[Example], success: Float[np.ndarray, "b g"]) -> Float[np.ndarray, " b"]:
    """The dataset's own scores."""
    del success
    return np.array([np.nan if e.difficulty is None else e.difficulty for e in examples], np.float32)


def from_success_rate(
    examples: Sequence[Example], success: Float[np.ndarray, "b g"]
) -> Float[np.ndarray, " b"]:
    """10 for a group that always fails, 1 for one that never does: no external scorer.

    >>> from_success_rate([], np.array([[1.0, 1.0], [1.0, 0.0]])).tolist()
    [1.0, 5.5]
    """
    del examples
    return (HIGHEST - (HIGHEST - LOWEST) * success.mean(axis=1)).astype(np.float32)


def from_file(path: str | Path) -> Difficulty:
    """Scores by example id.

    Raises:
        InputError: The file is not one of the two forms that `DifficultyConfig.path` names.
    """
    scores = _read_scores(Path(path))

    def look_up(examples: Sequence[Example], success: Float[np.ndarray, "b g"]) -> Float[np.ndarray, " b"]:
        del success
        return np.array([scores.get(example.id, np.nan) for example in examples], np.float32)

    return look_up


def open_difficulty(config: DifficultyConfig) -> Difficulty:
    """The source that a config names."""
    if config.source == "file":
        return from_file(config.path or "")
    sources: dict[str, Callable[..., Any]] = {"column": from_column, "self": from_success_rate}
    return sources[config.source]


def usable(score: float | None) -> bool:
    """Whether a score is a number from 1 to 10.

    >>> usable(3.5), usable(0.0), usable(float("nan")), usable(None)
    (True, False, False, False)
    """
    return score is not None and LOWEST <= score <= HIGHEST


def shuffled(
    scores: Float[np.ndarray, " b"], share: float, rng: np.random.Generator
) -> Float[np.ndarray, " b"]:
    """The scores with a share of them exchanged among each other.

    >>> sorted(shuffled(np.arange(4.0), 1.0, np.random.default_rng(0)).tolist())
    [0.0, 1.0, 2.0, 3.0]
    """
    chosen = np.flatnonzero(rng.random(len(scores)) < share)
    noisy = scores.copy()
    noisy[chosen] = scores[rng.permutation(chosen)]
    return noisy


def _read_scores(path: Path) -> dict[str, float]:
    try:
        text = path.read_text(encoding="utf-8")
        lines = path.suffix == ".jsonl"
        tree = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except OSError as error:
        raise InputError(f"difficulty file {path}: {error.strerror}; give a JSON file of scores") from error
    except ValueError as error:
        raise InputError(f"difficulty file {path}: not valid JSON ({error})") from error
    if isinstance(tree, list):
        tree = dict(_record(row, f"difficulty file {path}, record {i}") for i, row in enumerate(tree))
    if not isinstance(tree, dict):
        raise InputError(f"difficulty file {path}: expected an object or a list, got {type(tree).__name__}")
    return {str(key): _number(value) for key, value in tree.items()}


def _record(row: Any, where: str) -> tuple[str, Any]:
    keys = row if isinstance(row, dict) else {}
    name = next((keys[key] for key in ("image_id", "id") if key in keys), None)
    score = next((key for key in ("difficulty_score_model", "difficulty") if key in keys), None)
    if name is None or score is None:
        raise InputError(
            f"{where}: expected image_id (or id) and difficulty_score_model (or difficulty), got {row!r:.80}"
        )
    return str(name), keys[score]


def _number(value: Any) -> float:
    """NaN for what is no number: the policy for missing scores decides about it."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
