"""A model behind an OpenAI-compatible HTTP endpoint: vLLM, or a vendor's server.

The `openai` client makes the requests; waits and further tries are ours, because all workers share one pace
and tries are counted. Replies are read from the raw JSON: servers that are only compatible leave fields out.
Nothing is sent anywhere but to `base_url`: redirects are refused, and of the environment only the named key is
used, not the client's other variables.
"""

import base64
import io
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.config import EndpointConfig, is_this_machine
from pixelthink_jax.judge.pacing import Pace, backoff, retry_after
from pixelthink_jax.judge.protocol import Failure, Reply, Request
from pixelthink_jax.judge.sizes import fit_image, longest_tokens

_JPEG_QUALITY = 95
# Tries at an address that has never answered: more of them would only delay the news.
_FIRST_CONTACT_TRIES = 3
_BUSY = (408, 409, 425, 429)


class Endpoint:
    """A back end; see `EndpointConfig` for what it may be told."""

    batch_size = 1

    def __init__(self, config: EndpointConfig):
        """Reads the key from its environment variable; contacts nobody.

        Raises:
            InputError: The variable is not set, or the package `openai` is not installed.
        """
        self._config = config
        self._key = _read_key(config)
        self._openai = _import_openai()
        self._client = _client(self._openai, config, self._key)
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._stopped = threading.Event()
        self._answered, self._reason = False, ""
        self.workers = config.workers
        self.name = (
            f"{config.model} at {config.base_url}, temperature {config.temperature}, {config.structured}"
        )
        self.name += f", image side {config.max_image_side}"

    def replies(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """One request after another; see `Backend.replies`."""
        return [self._reply(request) for request in requests]

    def stop(self) -> None:
        """Ends all waits; tries under way end with their own timeout."""
        self._stopped.set()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _reply(self, request: Request) -> Reply | Failure:
        settings, tokens = self._settings(request), longest_tokens(request, self._config.max_image_side)
        problem = "never asked"
        for attempt in range(self._config.retries + 1):
            self._wait(self._pace.reserve(tokens))
            outcome = self._try(settings)
            if isinstance(outcome, _Reading):
                return outcome.reply(retries=attempt)
            if not outcome.again:
                return Failure(outcome.problem, retries=attempt)
            problem = outcome.problem
            if not self._answered and attempt + 1 >= _FIRST_CONTACT_TRIES:
                break
            if attempt < self._config.retries:
                self._back_off(attempt, outcome.wait)
        if not self._answered:
            raise self._fatal(
                f"endpoint {self._config.base_url}: it never answered ({problem}); is the server running, and is "
                "backend.base_url right?"
            )
        return Failure(f"given up after {self._config.retries + 1} tries: {problem}", self._config.retries)

    def _try(self, settings: dict[str, Any]) -> "_Reading | _Trouble":
        """One request; what no other try can mend is raised."""
        openai = self._openai
        try:
            raw = self._client.chat.completions.with_raw_response.create(**settings)
        except openai.APIStatusError as error:
            self._answered = True
            return self._status_trouble(error)
        except openai.APIConnectionError as error:
            return _Trouble(self._hide_key(f"{error.message} {error.__cause__ or ''}".strip()))
        self._answered = True
        try:
            return _Reading(json.loads(raw.http_response.text))
        except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
            return _Trouble("its reply is not a chat completion in JSON")

    def _status_trouble(self, error: Any) -> "_Trouble":
        config, status = self._config, error.status_code
        problem = self._hide_key(f"HTTP {status}: {' '.join(str(error.message).split()):.300}")
        where = f"endpoint {config.base_url}: {problem}"
        if status in (401, 403):
            key = "none was sent; name its variable in backend.api_key_env"
            if config.api_key_env is not None:
                key = f"it was taken from ${config.api_key_env}"
            raise self._fatal(f"{where}; it does not accept the key ({key})")
        if status == 404 or 300 <= status < 400:
            raise self._fatal(f"{where}; check backend.base_url and backend.model {config.model!r}")
        if status == 402 or error.code == "insufficient_quota":
            raise self._fatal(f"{where}; the account has no credit left; run the command again when it has")
        wait = retry_after(error.response.headers, now=time.time())
        if wait is not None and wait > config.longest_wait_s:
            raise self._fatal(
                f"{where}; it asks to wait {wait:.0f} s; run the command again then, or raise backend.longest_wait_s"
            )
        return _Trouble(problem, again=status in _BUSY or status >= 500, wait=wait)

    def _fatal(self, message: str) -> InputError:
        """The error that ends the run; other workers send nothing more, and end with the same words."""
        self._reason = self._reason or message
        self._stopped.set()
        return InputError(message)

    def _back_off(self, attempt: int, asked: float | None) -> None:
        config = self._config
        seconds = backoff(
            attempt, first=config.first_wait_s, longest=config.longest_wait_s, chance=random.random()
        )
        if asked is not None:
            # The server speaks to all of us.
            self._pace.hold(asked)
            seconds = max(seconds, asked)
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise InputError(self._reason or f"endpoint {self._config.base_url}: the run was stopped")

    def _settings(self, request: Request) -> dict[str, Any]:
        config, form = self._config, request.form
        # A lone surrogate, which JSON files may hold, cannot be sent.
        prompt = request.prompt.encode("utf-8", "replace").decode()
        image = {"type": "image_url", "image_url": {"url": _data_url(request.image, config.max_image_side)}}
        settings: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}],
            config.token_limit: form.max_tokens,
        }
        if config.temperature is not None:
            settings["temperature"] = config.temperature
        if config.structured == "json_schema":
            schema = {"name": form.name, "schema": dict(form.schema), "strict": True}
            settings["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif config.structured == "json_object":
            settings["response_format"] = {"type": "json_object"}
        return settings

    def _hide_key(self, text: str) -> str:
        """A server may repeat the key it was sent."""
        return text.replace(self._key, "***") if self._key else text


class _Trouble:
    """A try without a reply."""

    def __init__(self, problem: str, *, again: bool = True, wait: float | None = None):
        self.problem, self.again, self.wait = problem, again, wait


class _Reading:
    """A chat completion, of which a server must give the text and may give the rest."""

    def __init__(self, tree: Any):
        choice, usage = tree["choices"][0], tree.get("usage") or {}
        content = choice["message"]["content"]
        # Null where the model refused, or spent all its tokens on hidden reasoning: an answer of no use.
        self._text = "" if content is None else str(content)
        self._truncated = choice.get("finish_reason") == "length"
        self._tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))

    def reply(self, *, retries: int) -> Reply:
        return Reply(self._text, *self._tokens, truncated=self._truncated, retries=retries)


def _data_url(image: UInt8[np.ndarray, "H W 3"], max_side: int) -> str:
    picture, size = Image.fromarray(image), fit_image(image, max_side)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read_key(config: EndpointConfig) -> str:
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise InputError(
            f"backend.api_key_env: the environment variable {config.api_key_env} is not set; export it and run again"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"environment variable {config.api_key_env}: a key is printable ASCII; copy it again"
        )
    return key


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "backend endpoint: the package openai is not installed; pip install 'pixelthink_jax[judge]'"
        ) from error
    return openai


def _client(openai: Any, config: EndpointConfig, key: str) -> Any:
    http_client = openai.DefaultHttpxClient(
        # A redirect would take images where nobody agreed to send them, and a proxy stands outside this machine.
        follow_redirects=False,
        trust_env=not is_this_machine(config.base_url),
        timeout=config.timeout_s,
    )
    client = openai.OpenAI(
        base_url=config.base_url,
        # The client insists on a key and would take one from its own variables.
        api_key=key or "none",
        max_retries=0,
        timeout=config.timeout_s,
        http_client=http_client,
    )
    client.organization = client.project = None
    return client
