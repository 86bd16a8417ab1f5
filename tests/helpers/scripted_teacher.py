"""A local OpenAI-compatible server that answers from a script, and counts what it was asked and what it would charge."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = (
    "fever cough oedema rash dyspnoea anaemia troponin lactate sodium potassium creatinine murmur crackles wheeze jaundice ascites tremor goitre syncope "
    "palpitations haematuria proteinuria headache photophobia neutrophils platelets bilirubin albumin glucose ketones ferritin calcium pressure pulse "
    "saturation abdomen chest liver spleen kidney thyroid lung heart joint skin nerve retina bone marrow biopsy culture smear echo radiograph scan"
).split()


def good_answer(question: str, letter: str = "", case: bool = False, steps: int = 4) -> str:
    """An answer in the card's form whose words depend on the question, so that no two are alike."""
    rng = random.Random(hashlib.sha256(question.encode()).digest())

    def prose(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."

    return "\n".join(
        [
            *(["## Case", prose(60), ""] if case else []),
            "<think>",
            *(f"Step {step}: {prose(20)}" for step in range(1, steps + 1)),
            "</think>",
            "",
            "## Clinical Assessment",
            "",
            "**Primary Diagnosis**",
            prose(8),
            "",
            "**Reasoning**",
            prose(30),
            "",
            "**Immediate Management**",
            f"1. {prose(6)}",
            f"2. {prose(6)}",
            "",
            "**Follow-up**",
            prose(8),
            *(["", f"**Answer:** {letter}"] if letter else []),
        ]
    )


Action = str | int | dict[str, Any]


class Script:
    """What the server does. ``act(body, number)`` names an action for the request's ``number`` (from 0 over all requests).

    Actions: ``ok``; a status; ``cut`` and ``chunks`` (connection closed inside the body); ``malformed``; ``html``; ``hang`` (seconds in ``hanging``); a dict: the JSON to
    answer. ``text(body)`` gives an ``ok`` answer's text or message. ``billed`` are answers under status 200, by idempotency key.
    ``hung`` seconds go by before a look at the models is answered.
    """

    def __init__(self) -> None:
        self.act: Callable[[dict[str, Any], int], Action] = lambda body, number: "ok"
        self.text: Callable[[dict[str, Any]], str | dict[str, Any]] = lambda body: good_answer(question_of(body))
        self.usage: Callable[[dict[str, Any]], dict[str, int] | None] = lambda body: {
            "prompt_tokens": 300,
            "completion_tokens": 200,
            "total_tokens": 500,
        }
        self.model: str | None = None
        self.headers: dict[str, str] = {}
        self.delay, self.hanging, self.hung = 0.0, 2.0, 0.0
        self.lock, self.asked, self.billed = threading.Lock(), [], Counter()
        self.times: list[tuple[float, str, Action]] = []
        self.tokens = self.flying = self.most_flying = 0
        self.authorization: set[str | None] = set()
        self.watch: Callable[[Script], None] = lambda script: None


def question_of(body: dict[str, Any]) -> str:
    """The seed's or topic's text in a prompt."""
    text = body["messages"][-1]["content"]
    return text.split("Topic:\n" if "\nTopic:\n" in text else "Question:\n")[1].split("\n\nAnswer in this form")[
        0
    ] + str(body["seed"])


class _Handler(BaseHTTPRequestHandler):
    script: Script
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        script = self.script
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["Idempotency-Key"]
        with script.lock:
            number = len(script.asked)
            script.asked.append(key)
            script.authorization.add(self.headers["Authorization"])
            script.flying += 1
            script.most_flying = max(script.most_flying, script.flying)
            script.watch(script)
            action = script.act(body, number)
            script.times.append((time.monotonic(), key, action))
        time.sleep(script.delay)
        usage = script.usage(body)
        try:
            self._answer(action, body, key, usage)
        except OSError:  # the client was killed
            self.close_connection = True
        finally:
            with script.lock:
                script.flying -= 1

    def do_GET(self) -> None:
        time.sleep(self.script.hung)
        self._send(404, b"{}")

    def _answer(self, action: Action, body: dict[str, Any], key: str, usage: dict[str, int] | None) -> None:
        script = self.script
        if action == "hang":
            time.sleep(script.hanging)
        text = script.text(body)
        message = {"role": "assistant", **(text if isinstance(text, dict) else {"content": text})}
        answer: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": script.model or body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        if usage is not None:
            answer["usage"] = usage
        if isinstance(action, int):
            return self._send(
                action, json.dumps({"error": {"message": f"status {action}", "code": None}}).encode(), script.headers
            )
        if isinstance(action, dict):
            status = action.pop("_status", 200)
            answer = action
            return self._send(status, json.dumps(answer).encode())
        raw = json.dumps(answer).encode()
        with script.lock:
            if action != "html":
                script.billed[key] += 1
                script.tokens += (usage or {}).get("total_tokens", 0)
        if action == "html":
            return self._send(200, b"<!doctype html><html><body>Welcome</body></html>", kind="text/html")
        if action == "cut":
            self._send(200, raw[: len(raw) // 2], length=len(raw))
        elif action == "chunks":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"40\r\n" + raw[:64] + b"\r\n")
        else:
            return self._send(200, raw[:-30] if action == "malformed" else raw)
        self.close_connection = True

    def _send(
        self,
        status: int,
        raw: bytes,
        headers: dict[str, str] = {},
        kind: str = "application/json",
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(length or len(raw)), **headers}.items():
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
    try:
        yield f"http://127.0.0.1:{served.server_port}/v1", script
    finally:
        served.shutdown()
        served.server_close()
