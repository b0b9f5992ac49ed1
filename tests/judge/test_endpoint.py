"""The HTTP back end against a real server that misbehaves."""

import base64
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.asking import fill, fill_all
from pixelthink_jax.judge.config import EndpointConfig
from pixelthink_jax.judge.endpoint import Endpoint
from pixelthink_jax.judge.prompts import DIFFICULTY, SubScores, difficulty_form, fill_in
from pixelthink_jax.judge.protocol import Backend, Failure, Reply, Request
from tests.judge.server import Act, Server

KEY = "sk-very-Secret-0123"
BUSY = Act(status=429, body=b'{"error": {"message": "slow down"}}')


def request(query: str = "the cup", height: int = 30, width: int = 50) -> Request:
    image = np.full((height, width, 3), 90, np.uint8)
    return Request(difficulty_form(64), fill_in(DIFFICULTY, query=query, target="not given"), image)


OPENED: list[Endpoint] = []


@pytest.fixture(autouse=True)
def closed_in_the_end():
    yield
    while OPENED:
        OPENED.pop().close()


def endpoint(server: Server, **changes) -> Endpoint:
    values = {"model": "m", "first_wait_s": 0.01, "longest_wait_s": 5.0, "timeout_s": 2.0, "retries": 3}
    OPENED.append(Endpoint(EndpointConfig(base_url=server.url, **(values | changes))))
    return OPENED[-1]


def ask(server: Server, **changes) -> Reply | Failure:
    (reply,) = endpoint(server, **changes).replies([request()])
    return reply


def test_what_is_sent(monkeypatch):
    # Of the environment nothing but the named key may go to a server.
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"ambient-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Server() as server:
        backend = endpoint(server, max_image_side=40)
        assert isinstance(backend, Backend)
        [reply] = backend.replies([request("the caf\u00e9 cup \ud800")])
    assert isinstance(reply, Reply) and (reply.input_tokens, reply.output_tokens) == (100, 20)
    [sent], [headers] = server.seen, server.headers
    assert (sent["model"], sent["temperature"], sent["max_completion_tokens"]) == ("m", 0.0, 64)
    assert sent["response_format"]["json_schema"]["schema"]["required"][0] == "scene_complexity"
    picture, text = sent["messages"][0]["content"]
    assert "the caf\u00e9 cup ?" in text["text"]
    head, data = picture["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (40, 24)
    assert "ambient" not in json.dumps([sent, headers])


def test_settings_that_some_servers_refuse_can_be_left_out():
    with Server() as server:
        ask(server, temperature=None, structured="none", token_limit="max_tokens")
        ask(server, structured="json_object")
    first, second = server.seen
    assert first.keys() == {"model", "messages", "max_tokens"}
    assert second["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "act",
    [
        BUSY,
        Act(status=500, body=b"oops"),
        Act(status=503, body=b"<html>"),
        Act(body=b'{"choices": [{'),
        Act(body=b"<html>not json</html>", headers={"Content-Type": "text/html"}),
        Act(body=b"[]"),
        Act(body=b'{"choices": []}'),
        Act(body=b""),
        Act(body=b"\xff\xfe\xff"),
        Act(body=b"[" * 100_000),
        Act(cut=True),
        Act(delay=0.5),
    ],
    ids=["429", "500", "503", "half", "html", "list", "empty", "nothing", "bytes", "deep", "cut", "slow"],
)
def test_trouble_that_passes_is_tried_again(act):
    with Server([act, act]) as server:
        reply = ask(server, timeout_s=0.2)
    assert isinstance(reply, Reply) and reply.retries == 2 and len(server.seen) == 3
    assert json.loads(reply.text)["scene_complexity"] == 3


def test_trouble_that_stays_is_a_failure_that_says_how_often():
    with Server() as server:
        server.script = lambda _: Act(status=500, body=b'{"error": {"message": "no memory"}}')
        failure = ask(server, retries=2)
    assert isinstance(failure, Failure) and failure.retries == 2 and len(server.seen) == 3
    assert failure.problem.startswith("given up after 3 tries: HTTP 500") and "no memory" in failure.problem


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_repeated(status):
    with Server([Act(status=status, body=b'{"error": {"message": "too long"}}')]) as server:
        failure = ask(server)
    assert isinstance(failure, Failure) and "too long" in failure.problem and len(server.seen) == 1


def test_retry_after_is_obeyed_by_all_workers():
    busy = Act(status=429, body=b"{}", headers={"Retry-After": "0.4"})
    with Server([busy]) as server:
        backend = endpoint(server)
        first = threading.Thread(target=backend.replies, args=([request()],))
        first.start()
        time.sleep(0.15)
        backend.replies([request("another")])
        first.join()
    refused, *later = server.times
    assert len(later) == 2 and min(later) - refused >= 0.39


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (Act(status=429, body=b"{}", headers={"Retry-After": "3600"}), "asks to wait 3600 s"),
        (Act(status=429, body=b'{"error": {"code": "insufficient_quota", "message": "x"}}'), "no credit"),
        (Act(status=404, body=b'{"error": {"message": "no model m"}}'), "check backend.base_url"),
        (Act(status=307, body=b"", headers={"Location": "http://127.0.0.1:1/v1"}), "HTTP 307"),
    ],
    ids=["long", "quota", "model", "redirect"],
)
def test_trouble_that_no_other_try_mends_ends_the_run(act, says):
    with Server([act]) as server, pytest.raises(InputError, match=says) as caught:
        ask(server)
    assert len(server.seen) == 1 and "\n" not in str(caught.value)


def test_a_wrong_password_is_named_by_its_variable_and_never_shown(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)
    with Server(key="another") as server, pytest.raises(InputError, match=r"\$VENDOR_KEY") as caught:
        ask(server, api_key_env="VENDOR_KEY")
    assert KEY not in str(caught.value) and "***" in str(caught.value) and len(server.seen) == 1
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_right_password(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY + "\n")
    with Server(key=KEY) as server:
        assert isinstance(ask(server, api_key_env="VENDOR_KEY"), Reply)


def test_a_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv("VENDOR_KEY", raising=False)
    with pytest.raises(InputError, match="VENDOR_KEY is not set"):
        Endpoint(EndpointConfig(api_key_env="VENDOR_KEY"))


def test_a_dead_endpoint_is_told_soon():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    config = EndpointConfig(base_url=f"http://127.0.0.1:{port}/v1", first_wait_s=0.01, retries=50)
    start = time.monotonic()
    with pytest.raises(InputError, match="never answered .*is the server running"):
        Endpoint(config).replies([request()])
    assert time.monotonic() - start < 2


def test_a_server_that_dies_on_the_way_is_a_failure():
    with Server() as server:
        backend = endpoint(server, retries=1)
        assert isinstance(backend.replies([request()])[0], Reply)
    assert isinstance(backend.replies([request()])[0], Failure)


def test_workers_work_side_by_side_within_the_rate():
    jobs = [(i, [request(f"cup {i}")]) for i in range(12)]
    with Server() as server:
        server.script = lambda _: Act(delay=0.2)
        start = time.monotonic()
        done = dict(fill_all(endpoint(server, workers=6), jobs))
        seconds = time.monotonic() - start
    assert sorted(done) == list(range(12)) and server.most_under_way == 6
    assert 0.4 <= seconds < 1.2  # two rounds of six; one after another they take 2.4
    with Server() as server:
        start = time.monotonic()
        list(fill_all(endpoint(server, workers=6, requests_per_minute=1200), jobs[:8]))
    # From before the first was sent, which may have been slow to arrive.
    assert server.times[-1] - start >= 7 * 0.05 * 0.95


def test_stopping_ends_waits():
    with Server() as server:
        server.script = lambda _: BUSY
        backend = endpoint(server, first_wait_s=5.0)
        threading.Timer(0.2, backend.stop).start()
        start = time.monotonic()
        with pytest.raises(InputError, match="stopped"):
            backend.replies([request()])
    assert time.monotonic() - start < 2


def test_one_fatal_answer_ends_all_workers_soon():
    jobs = [(i, [request(f"cup {i}")]) for i in range(6)]
    with Server([BUSY] * 5 + [Act(status=403, body=b"{}")]) as server:
        start = time.monotonic()
        with pytest.raises(InputError, match="does not accept the key"):
            list(fill_all(endpoint(server, workers=6, first_wait_s=5.0), jobs))
    assert time.monotonic() - start < 2


def test_bad_answers_are_asked_for_again_with_the_reason():
    bad = ["no idea", '{"scene_complexity": 11, "segmentation_challenge": 1, "linguistic_ambiguity": 1}']
    with Server([Act(content=text) for text in bad]) as server:
        [filled] = fill(endpoint(server), [request()], attempts=3)
    assert filled.value == SubScores(3.0, 4.5, 6.0) and filled.problem is None
    assert (filled.usage.calls, filled.usage.bad_answers, filled.usage.input_tokens) == (3, 2, 300)
    last = server.seen[2]["messages"][0]["content"][1]["text"]
    assert "could not be used: scene_complexity must be a number from 1 to 10" in last


def test_no_usable_answer_is_a_problem_with_its_cost():
    with Server() as server:
        server.script = lambda _: Act(content=None if len(server.seen) > 2 else "", finish="length")
        [filled] = fill(endpoint(server), [request()], attempts=2)
    assert filled.value is None and filled.usage.calls == 2 and filled.usage.output_tokens == 40
    assert filled.problem.startswith("no usable answer in 2 attempts: it holds no complete JSON object")
    assert "cut off after 20 tokens" in filled.problem
