"""Throws malformed bodies and pictures at a server: no 5xx, no hang, no traceback in a body.

    python benchmarks/serve_fuzz.py --bodies 10000

Valid requests to every route are broken in every way that comes to mind (types, sizes, encodings, nesting, cut-off JSON, broken
pictures) and sent to a real server with a tiny random model.  Ends with exit code 1 where one was answered wrongly.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from serving import ROOT, Client, data_url

sys.path[:0] = [str(ROOT), str(ROOT / "src")]
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "é" * 50,
    "x" * 20_000, "<|im_end|>", "<image>", "'; DROP TABLE edits; --", "../../etc/passwd", "%s%n", [], {}, [[]], [None] * 50,
    {"a": {"b": {"c": []}}}, "http://127.0.0.1/x", "data:image/png;base64,", "data:,x", "data:image/png;base64,AAAA",
]  # fmt: skip


def broken_pictures(dice: random.Random) -> list[bytes]:
    """Picture files that are cut short, altered, huge, or none at all."""
    from PIL import Image

    files = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "PCX", "TGA"):
        stream = io.BytesIO()
        Image.effect_noise((24, 24), 60).convert("RGB").save(stream, kind)
        whole = stream.getvalue()
        files.append(whole)
        files += [whole[: dice.randrange(len(whole))] for _ in range(3)]
        for _ in range(6):
            altered = bytearray(whole)
            for _ in range(dice.randint(1, 30)):
                altered[dice.randrange(len(altered))] = dice.randrange(256)
            files.append(bytes(altered))
    bomb = io.BytesIO()
    Image.new("1", (5000, 5000)).save(bomb, "PNG")  # few bytes, many pixels
    huge = bytearray(bomb.getvalue())
    huge[16:24] = struct.pack(">2I", 2**31 - 1, 2**31 - 1)
    return [
        *files,
        bomb.getvalue(),
        bytes(huge),
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        dice.randbytes(500),
    ]


def mutated(value: Any, dice: random.Random, pictures: list[bytes]) -> Any:
    """The value with something in it replaced, dropped, doubled or added."""
    if dice.random() < 0.25:
        return (
            picture_url(dice, pictures)
            if isinstance(value, str) and value.startswith("data:")
            else dice.choice(STRANGE)
        )
    if isinstance(value, dict) and value:
        changed, name = dict(value), dice.choice(list(value))
        way = dice.random()
        if way < 0.15:
            del changed[name]
        elif way < 0.25:
            changed[dice.choice(["x", "\ud800", "__class__", name + " "])] = dice.choice(STRANGE)
        else:
            changed[name] = mutated(value[name], dice, pictures)
        return changed
    if isinstance(value, list) and value:
        changed = list(value)
        place = dice.randrange(len(changed))
        changed[place] = mutated(changed[place], dice, pictures)
        return changed * (200 if dice.random() < 0.03 else 1)
    return dice.choice(STRANGE)


def picture_url(dice: random.Random, pictures: list[bytes]) -> str:
    """A data URL of a broken picture, or a broken data URL of one."""
    text = "data:image/png;base64," + base64.b64encode(dice.choice(pictures)).decode()
    return text[: dice.randrange(len(text))] if dice.random() < 0.1 else text


def raw(value: Any, dice: random.Random) -> bytes:
    """As bytes, which may be no JSON any more."""
    body = json.dumps(value).encode()
    way = dice.random()
    if way < 0.05:
        return body[: dice.randrange(len(body) + 1)]
    if way < 0.08:
        return b"[" * dice.choice([10, 1000, 100_000]) + body
    if way < 0.1:
        return dice.randbytes(dice.randrange(200))
    if way < 0.12:
        return body.decode().encode("utf-16")
    if way < 0.14:
        return body.replace(b'"', b"'", 1)
    return body


def requests(dice: random.Random, url: str, pictures: list[bytes]) -> tuple[str, str, bytes]:
    """One request: method, path, body."""
    text = {"type": "text", "text": "What is it?"}
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]}
    chat = {
        "model": "tiny-pocket",
        "messages": [message],
        "max_tokens": 2,
        "stream": False,
        "vledit": {"explain": True},
    }
    edit = {
        "question": "What is it?",
        "answer": "tea",
        "image": url,
        "rephrases": ["x"],
        "id": "",
        "settings": {"steps": 1},
    }
    edit |= {"editor": "balancedit", "reason": "x", "preview": True, "probes": [{"question": "x", "image": url}]}
    ids = ["nothing", "%00", "a" * 3000, "..%2f..", "%F0%9F%98%80", "'", "jobs"]
    id = dice.choice(ids)
    route: tuple[str, str, Any] = dice.choice(
        [
            *[("POST", "/v1/chat/completions", chat)] * 6,
            *[("POST", "/v1/edits", edit)] * 4,
            ("POST", "/v1/probes", {"question": "x", "image": url, "note": "n"}),
            ("POST", f"/v1/edits/{id}/{dice.choice(['disable', 'enable', 'remove', 'restore'])}", {"reason": "x"}),
            ("POST", f"/v1/edits/{id}/radius", {"radius": 1.0, "reason": "x"}),
            ("POST", "/v1/history/rollback", {"revision": 0, "reason": "x"}),
            ("POST", f"/v1/edits/jobs/{id}/{dice.choice(['commit', 'discard'])}", {"reason": "x"}),
            ("POST", "/v1/codebook", None),
            ("GET", f"/v1/edits?limit={dice.choice(['1', '-1', 'x', '99999999999999999999'])}&search={id}", None),
            ("GET", f"/v1/edits/{id}", None),
            ("GET", f"/edits/{id}", None),
            ("GET", f"/v1/history?before={dice.choice(['0', 'x', '1', '9' * 30])}", None),
            ("POST", "/ui/ask", None),
            ("DELETE", f"/v1/probes/{id}", None),
        ]
    )
    method, path, body = route
    if body is None:
        return method, path, dice.randbytes(dice.randrange(300)) if method == "POST" else b""
    for _ in range(dice.randint(1, 3)):
        body = mutated(body, dice, pictures)
    return method, path, raw(body, dice)


def fuzz(address: str, bodies: int, seed: int, url: str, clients: int = 4) -> tuple[Counter[int], list[str], float]:
    """Sends them; statuses, what was wrong, and the longest time to an answer."""
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    longest = [0.0]

    pictures = broken_pictures(random.Random(seed))

    def work(number: int) -> None:
        dice = random.Random(f"{seed}-{number}")
        client = Client(address, 60)
        for _ in range(bodies // clients):
            method, path, body = requests(dice, url, pictures)
            began = time.monotonic()
            try:
                status, _, found = client.call(method, path, body)
            except Exception as error:
                wrong.append(f"{method} {path[:80]} {body[:200]!r}: {type(error).__name__} {error}")
                continue
            longest[0] = max(longest[0], time.monotonic() - began)
            statuses[status] += 1
            text = found.decode("utf-8", "replace") if isinstance(found, bytes) else json.dumps(found)
            if status >= 500 or "Traceback" in text or 'File \\"' in text:
                wrong.append(f"{method} {path[:80]} {body[:300]!r}: {status} {text[:300]}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, wrong, longest[0]


def serve(store: str) -> tuple[str, Callable[[], None]]:
    """A server with the tiny model in this process; its address, and what stops it."""
    import logging

    import torch
    import uvicorn

    torch.set_num_threads(1)
    logging.getLogger("vledit.serve").setLevel(logging.ERROR)
    from tests.vlm.models import build

    from vledit.editors.edited_model import EditedModel
    from vledit.serve.app import create_app
    from vledit.serve.settings import ServeSettings

    app = create_app(ServeSettings(store=store), EditedModel(build("pocket")))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop() -> None:
        server.should_exit = True
        thread.join(60)

    return f"http://127.0.0.1:{port}", stop


def main() -> None:
    """Prints what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bodies", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        address, stop = serve(str(Path(folder) / "store.db"))
        from tests.vlm.models import picture

        statuses, wrong, longest = fuzz(address, given.bodies, given.seed, data_url(picture(2)))
        stop()
    print(f"{sum(statuses.values())} requests, seed {given.seed}: statuses {dict(sorted(statuses.items()))}")
    print(f"longest answer {longest:.2f} s; answered wrongly {len(wrong)}")
    for line in wrong[:20]:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
