"""A real HTTP server in this process that speaks chat completions, and misbehaves as it is told."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SCORES = {"scene_complexity": 3, "segmentation_challenge": 4.5, "linguistic_ambiguity": 6}
CHAINS = {
    "reasoning_short": "it is the red one",
    "reasoning_long": "of the two cups only the left one is red",
}
RSCORES = {"completeness": 9, "correctness": 6, "coherence": 9, "brevity": 2}


@dataclass
class Act:
    """One answer of the server."""

    content: str | None = None  # of the completion; None fills in the form that was asked for
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of a completion
    delay: float = 0.0
    cut: bool = False  # half of the body, then a reset
    finish: str = "stop"


class Server:
    """`acts` are used up in order of the requests; after them it behaves. `script` may decide by the request."""

    def __init__(self, acts: list[Act] | None = None, *, key: str | None = None):
        self.acts, self.key = list(acts or []), key
        self.script: Callable[[dict], Act | None] = lambda request: None
        self.seen: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.under_way, self.most_under_way = 0, 0
        self.lock, self.dead = threading.Lock(), False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *args: None  # clients that give up are part of the game
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.dead = True
        self._http.shutdown()
        self._http.server_close()

    def count(self, form: str) -> int:
        return Counter(form_of(request) for request in self.seen)[form]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self.dead:
            handler.close_connection = True
            return
        with self.lock:
            self.seen.append(request)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self.times.append(time.monotonic())
            act = self.acts.pop(0) if self.acts else self.script(request) or Act()
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(act.delay)
        if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
            sent = handler.headers.get("Authorization", "").removeprefix("Bearer ")
            message = {"error": {"message": f"Incorrect API key provided: {sent}"}}
            act = Act(status=401, body=json.dumps(message).encode())
        body = act.body if act.body is not None else completion(request, act)
        with self.lock:
            self.under_way -= 1
        try:
            handler.send_response(act.status)
            for name, value in {"Content-Type": "application/json", **act.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2] if act.cut else body)
            if act.cut:
                handler.wfile.flush()
                # Close with a reset and not in peace.
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                handler.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


def prompt_of(request: dict) -> str:
    return request["messages"][0]["content"][1]["text"]


def form_of(request: dict) -> str:
    prompt = prompt_of(request)
    return next(n for n in ("reasoning_short", "scene_complexity", "completeness") if f'"{n}"' in prompt)


def filled_in(form: str) -> str:
    answers = {"reasoning_short": CHAINS, "scene_complexity": SCORES, "completeness": RSCORES}
    return json.dumps(answers[form])


def completion(request: dict, act: Act) -> bytes:
    content = filled_in(form_of(request)) if act.content is None else act.content
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": act.finish,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    tree = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps({**tree, "usage": usage}).encode()
