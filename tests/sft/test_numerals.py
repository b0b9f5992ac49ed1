"""Embeddings of numbers: smooth in the value, as large as the others, and nothing else touched."""

import jax
import numpy as np
import pytest

from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import build_tokenizer
from pixelthink_jax.sft.numerals import numerals, smooth_numerals

NUMBERS = range(0, 850, 10)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [f"at {n} and [{n}, x1 2nd" for n in NUMBERS] * 2
    build_tokenizer(texts, folder, number_digits=3)
    return Tokenizer.from_pretrained(folder)


def test_numerals_are_the_tokens_that_are_whole_numbers(tokenizer):
    found = numerals(tokenizer)
    assert set(NUMBERS) <= set(found.values())
    for i, value in found.items():
        assert tokenizer.decode([i]).strip() == str(value)
    assert int(tokenizer.encode(" 340")[0]) in found and int(tokenizer.encode("340")[0]) in found
    assert int(tokenizer.encode(" and")[0]) not in found


def test_near_numbers_are_near_and_other_rows_stay(tokenizer):
    values = numerals(tokenizer)
    embed = 0.08 * jax.random.normal(jax.random.key(0), (tokenizer.vocab_size, 128))
    smooth = np.asarray(smooth_numerals(embed, values, std=0.08, seed=1))
    others = [i for i in range(tokenizer.vocab_size) if i not in values]
    assert (smooth[others] == np.asarray(embed)[others]).all()
    codes = {value: smooth[i] for i, value in values.items()}
    assert np.std(np.stack(list(codes.values()))) == pytest.approx(0.08, rel=0.2)
    distance = lambda a, b: float(np.linalg.norm(codes[a] - codes[b]))  # noqa: E731
    for value in range(100, 700, 50):
        far = min(distance(value, other) for other in NUMBERS if abs(other - value) >= 30)
        assert distance(value, value + 10) < min(distance(value, value + 20), far)
    same = np.flatnonzero([tokenizer.decode([i]) == " 340" for i in range(tokenizer.vocab_size)])[0]
    np.testing.assert_array_equal(smooth[same], codes[340])
