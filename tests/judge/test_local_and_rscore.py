"""The local back end with a real random policy and with one that knows its lines, and the judge of chains."""

import json

import jax
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.asking import fill
from pixelthink_jax.judge.config import EndpointConfig, LocalConfig
from pixelthink_jax.judge.endpoint import Endpoint
from pixelthink_jax.judge.local import LocalBackend
from pixelthink_jax.judge.prompts import RScore, SubScores, difficulty_form
from pixelthink_jax.judge.protocol import Backend, Failure, Reply, Request
from pixelthink_jax.judge.rscore import ChainPair, judge_chains
from tests.evaluation.tiny import scripted_policy, tiny_policy
from tests.judge.server import RSCORES, SCORES, Act, Server, prompt_of


def picture(shade: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def request(prompt: str, shade: int = 90, max_tokens: int = 4) -> Request:
    return Request(difficulty_form(max_tokens), prompt, picture(shade))


def test_a_real_policy_from_a_folder_alone_and_on_a_mesh(tmp_path):
    tiny_policy().export(tmp_path / "policy")
    settings = {"policy": str(tmp_path / "policy"), "dtype": "float32"}
    backend = LocalBackend.load(LocalConfig(**settings))
    assert isinstance(backend, Backend) and backend.name.startswith("policy here")
    requests = [request("Rate It"), request("Rate that <image> too"), request("rate it")]
    first, refused, third = backend.replies(requests)
    assert isinstance(refused, Failure) and "<image>" in refused.problem
    for reply in (first, third):
        assert isinstance(reply, Reply) and reply.output_tokens <= 4 < reply.input_tokens
    # The case of the prompt is kept: a judge is not a policy whose questions are in lower case.
    ids = [backend._policy.processor.text_ids("x", instruction=text) for text in ("Rate It", "rate it")]
    assert ids[0].tolist() != ids[1].tolist()

    shared = LocalBackend.load(LocalConfig(**settings, mesh={"tensor": 2}))
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(shared._policy.params))
    assert shared.replies(requests) == [first, refused, third]


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"it needs 64 devices, there are \d+"):
        LocalBackend.load(LocalConfig(mesh={"tensor": 64}))


def test_forms_are_filled_in_by_a_policy_in_batches():
    policy = scripted_policy(lambda image: json.dumps(SCORES) if image.mean() > 50 else "nonsense")
    backend = LocalBackend(policy, LocalConfig(batch_size=4, max_image_pixels=3136))
    good, bad = fill(backend, [request("a"), request("b", shade=10)], attempts=2)
    assert good.value == SubScores(3.0, 4.5, 6.0) and bad.value is None and bad.usage.bad_answers == 2
    first, second = backend._policy.calls
    assert first["instructions"] == ["a", "b"] and first["max_new_tokens"] == 4
    assert len(second["instructions"]) == 1 and "could not be used" in second["instructions"][0]


def test_chains_are_judged_through_either_back_end():
    pairs = [
        ChainPair(picture(i), f"object {i}", chain, "the red one") for i, chain in enumerate(["red", " "])
    ]
    with Server() as server:
        server.script = lambda asked: Act(content="?") if "object 1" in prompt_of(asked) else None
        endpoint = Endpoint(EndpointConfig(base_url=server.url, model="m"))
        judged = dict(judge_chains(endpoint, pairs, attempts=2))
        endpoint.close()
    assert judged[0].value == RScore(**{key: float(value) for key, value in RSCORES.items()})
    assert judged[0].value.value == 0.8
    assert judged[1].value is None and "no usable answer" in judged[1].problem
    empty = next(prompt_of(asked) for asked in server.seen if "object 1" in prompt_of(asked))
    assert "Reasoning to judge: (none)" in empty
    local = LocalBackend(scripted_policy(lambda image: json.dumps(RSCORES)), LocalConfig())
    assert [filled.value.value for _, filled in judge_chains(local, pairs)] == [0.8, 0.8]
