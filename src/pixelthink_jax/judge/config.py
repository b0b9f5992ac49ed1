"""What an annotation run is made of. One YAML file, read by `config.load_config`."""

import ipaddress
import math
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.errors import InputError

Task = Literal["difficulty", "chains"]
MESH_AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class EndpointConfig:
    """A server that speaks OpenAI's chat completions: vLLM, or a vendor's.

    Attributes:
        kind: Says that this is an endpoint.
        base_url: Up to and with the version, such as `http://localhost:8000/v1`; no key, user or query in it.
        model: Name by which the server knows the model.
        api_key_env: Name of the environment variable that holds the key; None sends none.
        structured: How the server is told of the form: `json_schema` (vLLM, most vendors), `json_object`, or `none`.
        token_limit: Name of the request's token limit; older servers know `max_tokens` only.
        temperature: Of the sampling; None sends none, for models that refuse the setting.
        max_image_side: Larger images are made smaller to this, in pixels.
        workers: Requests under way at once.
        requests_per_minute: Starts of requests, of all workers together; None sets no limit.
        tokens_per_minute: Tokens of all workers together; a request counts with its input (see `--estimate`) and its
            longest answer, as vendors do. None sets no limit.
        timeout_s: Seconds without a byte from the server after which a try is given up.
        retries: Further tries after a busy server (429), its error (5xx), a cut connection or an unreadable reply.
        first_wait_s: Seconds before the first further try; each wait is twice the last one, a random half of it less.
        longest_wait_s: Longest such wait; a server that asks for a longer one ends the run.
        input_price: Of a million input tokens; None if unknown. No prices are known to the program.
        output_price: Of a million output tokens.
        currency: Of the prices.
    """

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = "http://localhost:8000/v1"
    model: str = "Qwen/Qwen2.5-VL-72B-Instruct"
    api_key_env: str | None = None
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    token_limit: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    temperature: float | None = 0.0
    max_image_side: int = 1024
    workers: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_s: float = 120.0
    retries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    input_price: float | None = None
    output_price: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model.strip():
            raise InputError("backend.model is empty; give the name by which the server knows the model")
        # The value is not shown: it may be a key pasted into the wrong place.
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.api_key_env):
            raise InputError(
                "backend.api_key_env: expected the name of an environment variable, in capitals, such as "
                "VENDOR_API_KEY, never a key; set the variable and name it here"
            )
        _check_at_least(1, max_image_side=self.max_image_side, workers=self.workers)
        _check_at_least(
            0,
            retries=self.retries,
            first_wait_s=self.first_wait_s,
            longest_wait_s=self.longest_wait_s,
            input_price=self.input_price,
            output_price=self.output_price,
            temperature=self.temperature,
        )
        for name in ("requests_per_minute", "tokens_per_minute", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"backend.{name} must be a positive number, got {value}")
        if (self.input_price is None) != (self.output_price is None):
            raise InputError("backend: give input_price and output_price, or neither")


@dataclass(frozen=True)
class LocalConfig:
    """A policy that the project loads itself.

    Attributes:
        kind: Says that this is a local policy.
        policy: Its folder.
        dtype: Of its parameters and computation.
        mesh: Devices along each axis of `data`, `fsdp` and `tensor`, such as {tensor: 8}; empty uses one device.
        batch_size: Requests decoded together.
        temperature: Of the sampling; 0 is greedy.
        max_image_pixels: Larger images are made smaller to this; None keeps the policy's own limit.
    """

    kind: Literal["local"] = "local"
    policy: str = "models/Qwen2.5-VL-7B-Instruct"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    mesh: dict[str, int] = field(default_factory=dict)
    batch_size: int = 8
    temperature: float = 0.0
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(
            1,
            batch_size=self.batch_size,
            max_image_pixels=self.max_image_pixels,
            **{f"mesh.{axis}": size for axis, size in self.mesh.items()},
        )
        _check_at_least(0, temperature=self.temperature)
        unknown = sorted(self.mesh.keys() - set(MESH_AXES))
        if unknown:
            raise InputError(f"backend.mesh: unknown axis {unknown[0]!r}; expected {', '.join(MESH_AXES)}")


@dataclass(frozen=True)
class PromptsConfig:
    """Texts of one's own, with `{query}` and, where wanted, `{target}` in them; None takes those of `judge.prompts`.

    Attributes:
        difficulty: Asks for the three sub-scores.
        chains: Asks for the short and the long chain.
    """

    difficulty: str | None = None
    chains: str | None = None

    def __post_init__(self) -> None:
        for name in ("difficulty", "chains"):
            text = getattr(self, name)
            if text is not None and text.count("{query}") != 1:
                raise InputError(f"prompts.{name}: expected exactly one {{query}} in it; write where it goes")


@dataclass(frozen=True)
class AnnotateConfig:
    """A run that scores and explains the rows of a dataset.

    Attributes:
        out: Folder for annotations.jsonl, failures.jsonl and summary.json.
        data: The questions.
        backend: Who is asked.
        tasks: `difficulty` (three sub-scores and their mean), `chains` (a short and a long reference).
        prompts: Texts of one's own.
        attempts: Times that a form is asked for until its answer can be used.
        max_tokens: Longest answer; a model that reasons before it answers needs more.
        stop_after: Rows failed one after another at which the run stops, because something general is wrong.
        cache: Folder of replies, which runs may share; None takes one in `out`.
    """

    out: str = "runs/annotations"
    data: DatasetConfig = field(default_factory=lambda: DatasetConfig(split="tuning"))
    backend: EndpointConfig | LocalConfig = field(default_factory=EndpointConfig)
    tasks: tuple[Task, ...] = ("difficulty", "chains")
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    attempts: int = 3
    max_tokens: int = 1024
    stop_after: int = 20
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise InputError(f"tasks must name each task once and at least one, got {list(self.tasks)}")
        for name in ("attempts", "max_tokens", "stop_after"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


def is_this_machine(base_url: str) -> bool:
    """Whether what is sent there stays on this machine, as far as an address can say.

    >>> [is_this_machine(url) for url in ("http://localhost:8000/v1", "http://[::1]/v1", "https://vendor.com/v1")]
    [True, True, False]
    """
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_url(url: str) -> None:
    """Refuses what is no address, and one with a secret in it, which is not shown."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"backend.base_url: not an address ({error})") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "backend.base_url: it holds a user, password or query; leave them out and name a key's "
            "environment variable in backend.api_key_env"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"backend.base_url {url!r}: expected an address such as http://localhost:8000/v1")


def _check_at_least(least: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise InputError(f"backend.{name} must be at least {least}, got {value}")
