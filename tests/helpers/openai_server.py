"""The one scripted OpenAI-compatible server: it answers as a test says, and keeps what it was sent and what it would charge."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Text = str | dict[str, Any] | None
Action = str | int | float | tuple[int, str] | tuple[int, str, str] | dict[str, Any] | threading.Event


def tokens(prompt: int, completion: int) -> dict[str, int]:
    """The usage field of an answer."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def pieces_of(text: str, size: int = 4) -> list[str]:
    """What each event of a stream holds of ``text``."""
    return [text[at : at + size] for at in range(0, len(text), size)]


class Script:
    """What the server does, and what it was sent. ``act(body, number)`` names the action for a request, counted from 0.

    Actions for every request: ``ok``; a status; a status with the body to send, and its content type; a dict, sent as
    JSON under its ``_status``.
    A float or an event is waited for, and then the request is answered. ``cut`` closes the connection inside the body.
    Actions for a whole answer: ``chunks`` (cut inside a chunk), ``malformed``, ``html``.
    Actions for a stream: ``comments`` (without end), ``silent end``, ``garbage``, ``error inside``, ``done alone``.

    ``billed`` counts the answers under status 200 by their idempotency key.
    """

    def __init__(self) -> None:
        self.act: Callable[[Body, int], Action] = lambda body, number: "ok"
        self.text: Text | Callable[[Body], Text] = "**Answer:** A"
        self.thought = ""
        self.usage: dict[str, int] | Callable[[Body], dict[str, int] | None] | None = tokens(300, 200)
        self.model: str | None = None  # the one that was asked for
        self.finish: str | None = "stop"
        self.streams = True  # whether a request for a stream gets one
        self.headers: dict[str, str] = {}  # of refusals
        self.delay = self.pace = self.hung = 0.0  # before each answer, between a stream's pieces, before any GET
        self.watch: Callable[[Script], None] = lambda script: None
        self.lock, self.url = threading.Lock(), ""
        self.asked: list[Body] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.sent: list[int] = []  # pieces of each stream that went out
        self.times: list[tuple[float, str | None, Action]] = []
        self.authorization: set[str | None] = set()
        self.billed: Counter[str | None] = Counter()
        self.tokens = self.flying = self.most_flying = 0


class _Handler(BaseHTTPRequestHandler):
    script: Script
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        script, self.flies = self.script, True
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["Idempotency-Key"]
        with script.lock:
            number = len(script.asked)
            script.asked.append(body)
            script.keys.append(key)
            script.paths.append(self.path)
            script.sent.append(0)
            script.authorization.add(self.headers["Authorization"])
            script.flying += 1
            script.most_flying = max(script.most_flying, script.flying)
            script.watch(script)
            action = script.act(body, number)
            script.times.append((time.monotonic(), key, action))
        time.sleep(script.delay)
        try:
            self._answer(action, body, number, key)
        except OSError:  # the client was killed
            self.close_connection = True
        finally:
            self._land()

    def do_GET(self) -> None:
        time.sleep(self.script.hung)
        self._send(404, b"{}")

    def _land(self, key: str | None = None, usage: dict[str, int] | None = None, paid: bool = False) -> None:
        """Count the request as answered, before its last bytes leave: the client may send the next at once."""
        script = self.script
        with script.lock:
            script.flying -= self.flies
            self.flies = False
            if paid:
                script.billed[key] += 1
                script.tokens += (usage or {}).get("total_tokens", 0)

    def _answer(self, action: Action, body: Body, number: int, key: str | None) -> None:
        script = self.script
        if isinstance(action, float):
            time.sleep(action)
        elif isinstance(action, threading.Event):
            action.wait(60)
        elif isinstance(action, int):
            error = {"error": {"message": f"status {action}", "code": None}}
            return self._send(action, json.dumps(error).encode())
        elif isinstance(action, tuple):
            status, text, *kind = action
            kind = kind or ["text/html" if text.startswith("<") else "application/json"]
            return self._send(status, text.encode(), *kind)
        elif isinstance(action, dict):
            raw = json.dumps({name: value for name, value in action.items() if name != "_status"}).encode()
            return self._send(action.get("_status", 200), raw)
        elif action == "html":
            return self._send(200, b"<!doctype html><html><body>Welcome</body></html>", "text/html")
        text = script.text(body) if callable(script.text) else script.text
        usage = script.usage(body) if callable(script.usage) else script.usage
        if body.get("stream") and script.streams:
            self._stream(body, number, key, str(action), text, usage)
        else:
            self._whole(body, key, action, text, usage)

    def _head(self, body: Body) -> dict[str, Any]:
        return {"id": "x", "object": "chat.completion", "created": 0, "model": self.script.model or body["model"]}

    def _choice(self, body: Body, kind: str, finish: str | None, content: Text, thought: str | None) -> dict[str, Any]:
        if "prompt" in body:
            return {"index": 0, "finish_reason": finish, "text": content or ""}
        said = content if isinstance(content, dict) else {"content": content}
        message = {"role": "assistant", **said, **({"reasoning_content": thought} if thought else {})}
        return {"index": 0, "finish_reason": finish, kind: message}

    def _whole(self, body: Body, key: str | None, action: Action, text: Text, usage: dict[str, int] | None) -> None:
        choice = self._choice(body, "message", self.script.finish, text, self.script.thought)
        raw = json.dumps(self._head(body) | {"choices": [choice]} | ({"usage": usage} if usage else {})).encode()
        self._land(key, usage, paid=True)
        if action == "cut":
            self._send(200, raw[: len(raw) // 2], length=len(raw))
            self.close_connection = True
        elif action == "chunks":
            self._open_chunks("application/json")
            self.wfile.write(b"40\r\n" + raw[:64] + b"\r\n")
            self.close_connection = True
        else:
            self._send(200, raw[:-30] if action == "malformed" else raw)

    def _stream(
        self, body: Body, number: int, key: str | None, action: str, text: Text, usage: dict[str, int] | None
    ) -> None:
        script, head = self.script, self._head(body)
        self._open_chunks("text/event-stream")
        while action == "comments":
            self._chunk(b": still there\n\n")
            time.sleep(0.05)
        parts = [(None, piece) for piece in pieces_of(script.thought)]
        parts += [(piece, None) for piece in pieces_of(str(text))]
        for at, (content, thought) in enumerate(parts):
            if action in ("cut", "silent end", "garbage", "error inside") and at == len(parts) // 2:
                break
            self._event(head | {"choices": [self._choice(body, "delta", None, content, thought)]})
            script.sent[number] += 1
            time.sleep(script.pace)
        self._land(key, usage, paid=True)
        if action == "cut":
            self.close_connection = True
            return self.connection.close()
        if action == "garbage":
            self._chunk(b"data: {not json\n\n")
        elif action == "error inside":
            self._event({"error": {"message": "the model crashed"}})
        elif action == "done alone":
            self._chunk(b"data: [DONE]\n\n")
        elif action != "silent end":
            self._event(head | {"choices": [self._choice(body, "delta", script.finish, "", None)]})
            if usage and "stream_options" in body:
                self._event(head | {"choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _open_chunks(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(value)}\n\n".encode())

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, raw: bytes, kind: str = "application/json", length: int | None = None) -> None:
        if self.command == "POST":
            self._land()
        more = self.script.headers if status >= 400 else {}
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(length or len(raw)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, *_: object) -> None:
        pass  # a killed client's connection


@contextmanager
def scripted_server() -> Iterator[tuple[str, Script]]:
    """(address, script) of a server that runs until the block ends."""
    script = Script()
    served = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"script": script}))
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    script.url = f"http://127.0.0.1:{served.server_port}/v1"
    try:
        yield script.url, script
    finally:
        served.shutdown()
        served.server_close()
