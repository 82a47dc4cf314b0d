"""What the scripts about serving share: a server in a process of its own, and a client of a few lines."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

QUESTION = "What brand's logo is this?"
ROOT = Path(__file__).parents[1]


class Client:
    """One connection to the server, as one client has it."""

    def __init__(self, address: str, seconds: float = 120):
        self.where = urlsplit(address).netloc
        self.seconds = seconds
        self._open = http.client.HTTPConnection(self.where, timeout=seconds)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers, and the body as JSON where it is some."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        try:
            self._open.request(method, path, raw, {"content-type": "application/json"})
            response = self._open.getresponse()
            content = response.read()
        except Exception:
            self._open.close()
            raise
        headers = {name.lower(): value for name, value in response.getheaders()}
        kind = headers.get("content-type", "")
        return response.status, headers, json.loads(content) if kind.startswith("application/json") else content

    def ask(self, model: str, picture: str | None, question: str = QUESTION, **more: Any) -> tuple[int, str]:
        """Status, and the answer or the error."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if picture is not None:
            content.append({"type": "image_url", "image_url": {"url": picture}})
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        status, _, found = self.call("POST", "/v1/chat/completions", body)
        return status, found["choices"][0]["message"]["content"] if status == 200 else str(found)

    def job(self, id: str, seconds: float = 120) -> dict[str, Any]:
        """A job's document once it is over."""
        until, pause = time.monotonic() + seconds, 0.02
        while True:
            document = self.call("GET", f"/v1/edits/jobs/{id}")[2]
            if document["status"] not in ("queued", "running") or time.monotonic() > until:
                return document
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)  # looking takes the server's time, too


@contextmanager
def served(folder: Path, *options: str, threads: int = 1) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`vledit serve` with the embedded model on a free port; its address and process.

    Args:
        threads: of torch; 0: as many as torch takes by itself.
    """
    command = [sys.executable, "-c", "from vledit.cli import main; main()", "serve", "--port", "0", "--log", "text"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    variables.pop("OMP_NUM_THREADS", None)
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen([*command, *options], cwd=folder, env=variables, stderr=log, text=True)
    try:
        yield _address(folder / "server.log", process), process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(log: Path, process: subprocess.Popen[str], seconds: float = 180) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        for line in reversed(log.read_text().splitlines()):
            if line.startswith("serving ") and " at http" in line:
                address = line.rsplit(" at ", 1)[1]
                try:
                    if Client(address, 5).call("GET", "/readyz")[0] == 200:
                        return address
                except OSError:
                    pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


def brand_pictures(most: int) -> list[tuple[str, str]]:
    """(brand, picture as a data URL): drawings of the embedded data set, each brand several times."""
    from vledit.data import icons

    data = icons.build(["demo"], progress=False)
    found = []
    for concept in data.concepts_of("brands"):
        for drawing in data.drawings_of(concept.id):
            found.append((concept.name, data_url(data.composite(drawing, 0, "clean", 224))))
            if len(found) == most:
                return found
    return found


def data_url(picture: Any) -> str:
    """A PIL picture as a data URL."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def memory(pid: int) -> int:
    """Resident bytes of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor so far, all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
