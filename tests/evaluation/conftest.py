"""A policy of random weights and a segmenter of random weights, both as small as their architectures allow."""

import pytest

from pixelthink_jax.policy import Policy
from pixelthink_jax.segmenter import Segmenter
from tests.evaluation.tiny import tiny_policy, tiny_segmenter


@pytest.fixture(scope="session")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return tiny_segmenter()
