"""A real OpenAI-compatible HTTP server on a free port of 127.0.0.1, which answers from a script.

    with ModelServer([Reply("..."), Fault("status", status=429), Reply("...")]) as server:
        LiteLLMModel(("openai/test",), base_url=server.url, ...)

Each request takes the next step; when the script is empty, `default` answers (or 500). `server.requests` holds the
JSON bodies, `server.headers` their headers. Plain `http.server` in threads: nothing to install, and it can misbehave
on the wire in ways a well-kept server would not.
"""

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Kind = Literal["status", "hang", "drip", "cut", "raw", "endless", "reset"]


@dataclass(frozen=True)
class Reply:
    """A good answer whose message content is `content`."""

    content: str | None
    finish_reason: str = "stop"
    refusal: str | None = None
    tokens_in: int = 100
    tokens_out: int = 20
    delay_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong: an HTTP status, silence before the headers, one byte every `every_s`, a body cut off after
    `cut_after` bytes, `body` sent as it is, a body without end, or a reset connection."""

    kind: Kind
    status: int = 200
    body: bytes = b""
    every_s: float = 0.05
    cut_after: int = 40


Step = Reply | Fault | Callable[[dict[str, Any]], "Reply | Fault"]


def completion(reply: Reply, model: str) -> bytes:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    usage = {
        "prompt_tokens": reply.tokens_in,
        "completion_tokens": reply.tokens_out,
        "total_tokens": reply.tokens_in + reply.tokens_out,
    }
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    head = {"id": "chatcmpl-test", "object": "chat.completion", "created": 1, "model": model}
    return json.dumps(head | {"choices": [choice], "usage": usage}).encode()


class ModelServer:
    """The server as a context manager; `url` is what MODEL_BASE_URL takes."""

    def __init__(self, script: Iterable[Step] = (), default: Step | None = None) -> None:
        self.script: deque[Step] = deque(script)
        self.default = default
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=2)

    def next_step(self, request: dict[str, Any], headers: dict[str, str]) -> Reply | Fault:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            step = self.script.popleft() if self.script else self.default
        if step is None:
            return Fault("status", status=500, body=b'{"error":{"message":"the script is empty"}}')
        return step(request) if callable(step) else step


class _Handler(BaseHTTPRequestHandler):
    owner: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the signature is http.server's)
        """Keep quiet."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        step = self.owner.next_step(request, {k.lower(): v for k, v in self.headers.items()})
        self.close_connection = True
        try:
            self._answer(step, request)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client gave up, as it should

    def _answer(self, step: Reply | Fault, request: dict[str, Any]) -> None:
        if isinstance(step, Reply):
            self.owner.stopping.wait(step.delay_s)
            self._send(200, completion(step, request["model"]))
        else:
            getattr(self, f"_{step.kind}")(step)

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body) if length is None else length))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _status(self, step: Fault) -> None:
        self._send(step.status, step.body or b'{"error":{"message":"scripted","type":"scripted"}}')

    def _raw(self, step: Fault) -> None:
        self._send(step.status, step.body)

    def _hang(self, step: Fault) -> None:
        self.owner.stopping.wait()

    def _drip(self, step: Fault) -> None:
        body = step.body or completion(Reply("x" * 5000), "test")
        self._send(200, b"", length=len(body))
        for byte in body:
            if self.owner.stopping.wait(step.every_s):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _cut(self, step: Fault) -> None:
        body = step.body or completion(Reply('{"action":"HOLD"}'), "test")
        self._send(200, body[: step.cut_after], length=len(body))

    def _endless(self, step: Fault) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b'{"choices":[{"message":{"content":"')
        while not self.owner.stopping.is_set():
            self.wfile.write(b"x" * 65_536)

    def _reset(self, step: Fault) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
