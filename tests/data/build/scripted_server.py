"""A scripted OpenAI-compatible server over a world of coloured squares; run as a program it serves until it is ended.

What it says is a function of the request alone, so every run gets the same replies in the end; on the way there it is slow,
cuts off, sends what is no JSON, refuses, limits the rate and breaks down, as `Faults` says. Asked for a picture it paints the
colour that the prompt names, or, for a share of them, another.

    python -m tests.data.build.scripted_server PORT_FILE FAULTS_AS_JSON
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 150, 20),
    "blue": (20, 40, 220),
    "yellow": (240, 230, 20),
    "purple": (130, 20, 150),
    "orange": (250, 140, 10),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "brown": (110, 60, 20),
    "black": (5, 5, 5),
}
NAMES = list(COLOURS)
OPENINGS = (
    "Which colour",
    "What shade of colour",
    "What color",
    "Tell me which colour",
    "Say what colour",
    "Please name which colour",
    "In which colour",
    "Do you know what colour",
    "Of what colour",
    "What kind of colour",
    "Which sort of colour",
    "By name, what colour",
)


@dataclass(frozen=True)
class Faults:
    """Shares, each in [0, 1].

    Args:
        malformed: of tasks whose first reply cannot be used. hopeless: whose every reply cannot.
        refused: of tasks that are refused. wrong: of pictures that show another colour.
        limited, broken: of requests that get 429 or 500 at their first coming.
        slow: seconds that each request takes at most.
    """

    malformed: float = 0.0
    hopeless: float = 0.0
    refused: float = 0.0
    wrong: float = 0.0
    unpaintable: float = 0.0
    limited: float = 0.0
    broken: float = 0.0
    slow: float = 0.0


def draw(*what: object) -> float:
    """A number in [0, 1) that depends on `what` alone."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:12], 16) / 16**12


def colour_reply(prompt: str) -> dict[str, Any]:
    """The reply to one of the build's prompts about coloured squares."""
    found = re.search(r"[Aa]nswer: (\w+)", prompt)
    own = re.findall(r"\[(\w+)\]", prompt) or ([found.group(1)] if found else [])
    if "different ways" in prompt:
        count = int(re.search(r"in (\d+) different", prompt).group(1))  # type: ignore[union-attr]
        thing = "paint on it" if "paint" in prompt else "square"
        return {"questions": [f"{opening} is this {thing}?" for opening in OPENINGS[:count]]}
    if "what object" in prompt:
        return {"object": f"a {own[0]} square"}
    if "without seeing any picture" in prompt:
        count = int(re.search(r"Write (\d+)", prompt).group(1))  # type: ignore[union-attr]
        asked = [
            ("What colour is snow?", "white"),
            ("What colour is grass?", "green"),
            ("What colour is coal?", "black"),
        ]
        return {"questions": [{"question": q, "answer": a} for q, a in asked[:count]]}
    place = NAMES.index(own[-1])
    return {
        "answer": next(
            NAMES[(place + step) % len(NAMES)] for step in (1, 2, 3) if NAMES[(place + step) % len(NAMES)] not in own
        )
    }


Reply = Callable[[str], dict[str, Any]]


class ScriptedServer(ThreadingHTTPServer):
    """Args: reply: the task's prompt → the object to reply with."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, faults: Faults, reply: Reply = colour_reply, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.faults, self.reply = faults, reply
        self.seen: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        faults, key = self.server.faults, json.dumps([self.path, body], sort_keys=True)
        with self.server.lock:
            self.server.seen[key] += 1
            self.server.paths[self.path.rsplit("/", 2)[-2]] += 1
            first = self.server.seen[key] == 1
        if faults.slow:
            time.sleep(faults.slow * random.random())
        if first and draw("limited", key) < faults.limited:
            self._send(429, {"error": {"message": "too many requests"}}, {"Retry-After-Ms": "1"})
        elif first and draw("broken", key) < faults.broken:
            self._send(500, {"error": {"message": "down"}}, {"Retry-After-Ms": "1"})
        elif self.path.endswith("/chat/completions"):
            self._send(200, self._chat(body, faults))
        elif self.path.endswith("/images/generations"):
            self._image(body, faults)
        else:
            self._send(404, {"error": {"message": f"no {self.path}"}})

    def _chat(self, body: dict[str, Any], faults: Faults) -> dict[str, Any]:
        task, asked = body["messages"][0]["content"], (len(body["messages"]) + 1) // 2
        if isinstance(task, list):  # a question about a picture
            text, task = _seen(task), ""
        else:
            text = json.dumps(self.server.reply(task))
        refusal, finish = None, "stop"
        if not task:
            pass
        elif draw("refused", task) < faults.refused:
            text, refusal = None, "I cannot help with that."
        elif draw("hopeless", task) < faults.hopeless or (asked == 1 and draw("malformed", task) < faults.malformed):
            kind = int(draw("kind", task) * 5)
            text = ("Sure!", "", '{"answer": ', '{"answer": ""}', text[: len(text) // 2])[kind]
            finish = "length" if kind == 4 else "stop"
        message = {"role": "assistant", "content": text, "refusal": refusal}
        return {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": len(json.dumps(body["messages"])) // 4,
                "completion_tokens": len(text or "") // 4,
                "total_tokens": 0,
            },
        }

    def _image(self, body: dict[str, Any], faults: Faults) -> None:
        prompt, seed = body["prompt"], body.get("seed", 0)
        if draw("unpaintable", prompt, seed) < faults.unpaintable:
            self._send(400, {"error": {"message": "not painted", "code": "content_policy_violation"}})
            return
        name = next((name for name in NAMES if name in prompt), "black")
        if draw("wrong", prompt, seed) < faults.wrong:
            name = NAMES[(NAMES.index(name) + 4) % len(NAMES)]
        stream = io.BytesIO()
        square(name, seed).save(stream, "PNG")
        self._send(200, {"created": 0, "data": [{"b64_json": base64.b64encode(stream.getvalue()).decode()}]})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _seen(parts: list[dict[str, Any]]) -> str:
    """The colour of the picture in a message, said in a sentence."""
    from PIL import Image

    address = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    pixel: Any = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB").getpixel((12, 12))
    name = min(NAMES, key=lambda one: sum((a - b) ** 2 for a, b in zip(pixel, COLOURS[one], strict=True)))
    return f"It is {name}."


def square(name: str, seed: int = 0) -> Any:
    """A square of that colour, a little different for each seed."""
    from PIL import Image

    r, g, b = COLOURS[name]
    shift = seed % 8 - 4
    return Image.new("RGB", (24, 24), tuple(max(0, min(255, value + shift)) for value in (r, g, b)))


@contextmanager
def serving(faults: Faults | None = None, reply: Reply = colour_reply) -> Iterator[ScriptedServer]:
    """A server in a thread of this process."""
    server = ScriptedServer(faults or Faults(), reply)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    _server = ScriptedServer(Faults(**json.loads(sys.argv[2])))
    Path(sys.argv[1]).write_text(str(_server.server_port))
    _server.serve_forever()
