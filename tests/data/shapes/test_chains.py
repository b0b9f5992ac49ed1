"""Lengths by level and style, and the closed vocabulary."""

import re

import numpy as np
import pytest

from pixelthink_jax.data.shapes import STYLES, ShapeReason
from pixelthink_jax.data.shapes.chains import DIRECT_SHARE, chain, sample_style

LEVELS = ("easy", "medium", "hard")
WORD_RANGE = {"none": (0, 0), "short": (8, 20), "medium": (33, 75), "long": (50, 280)}


@pytest.fixture
def chains(many_rows):
    """(level, style, text): every style for each of 450 questions."""
    return many_rows.chains


def _mean_words(chains, level, style):
    return np.mean([len(text.split()) for a, b, text in chains if (a, b) == (level, style)])


@pytest.mark.parametrize("style", ["short", "medium", "long"])
def test_length_within_a_style_does_not_tell_the_level(chains, many_rows, style):
    if style == "long":
        chains = [(level, style, filled) for level, _, filled in many_rows.long]
    means = [_mean_words(chains, level, style) for level in LEVELS]
    assert (max(means) - min(means)) / np.mean(means) < 0.12, means


def test_a_share_of_the_long_chains_stops_at_the_derivation(chains, many_rows):
    drawn = [text for _, style, text in chains if style == "long"]
    stopped = []
    for (_, direct, filled), text in zip(many_rows.long, drawn, strict=True):
        derivation = direct[: direct.rindex(" so the answer is ")]
        assert all(chain.startswith(derivation) for chain in (filled, text))
        if len(filled.split()) > len(direct.split()) + 30:  # there was room, whatever length was drawn
            stopped.append(text == direct)
    assert len(stopped) > 100
    assert np.mean(stopped) == pytest.approx(DIRECT_SHARE, abs=0.1)


def test_words_of_each_style_are_in_their_range(chains):
    for _, style, text in chains:
        low, high = WORD_RANGE[style]
        assert low <= len(text.split()) <= high, text


def test_mixture_is_verbose_and_spread_on_every_level(chains):
    for level in LEVELS:
        words, weights = [], []
        for style, share in STYLES.items():
            lengths = [len(text.split()) for a, b, text in chains if (a, b) == (level, style)]
            words += lengths
            weights += [share / len(lengths)] * len(lengths)
        mean = np.average(words, weights=weights)
        deviation = np.sqrt(np.average((np.array(words) - mean) ** 2, weights=weights))
        assert mean >= 90
        assert deviation / mean >= 0.3


def test_vocabulary_is_small_and_safe(chains, many_rows):
    text = " ".join(text for *_, text in chains)
    queries = " ".join(row.query for rows in many_rows.asked.values() for _, row in rows)
    assert not set(text) & set("{}<>\"'")
    assert len(set(re.findall(r"[a-zA-Z]+", f"{text} {queries}"))) <= 250


def test_styles_are_drawn_in_their_shares():
    rng = np.random.default_rng(0)
    drawn = [sample_style(rng) for _ in range(4000)]
    for style, share in STYLES.items():
        assert drawn.count(style) / 4000 == pytest.approx(share, abs=0.03)
    assert {sample_style(rng, brief=True) for _ in range(50)} == {"none", "short"}


def test_unknown_style_is_refused():
    asked = ShapeReason("test").asked(0)
    with pytest.raises(ValueError, match="unknown chain style"):
        chain(asked.query, asked.trace, asked.graph, "verbose", np.random.default_rng(0))
