"""Kills a server with -9 in mid-edit, again and again: what was acknowledged is there, and no half edit ever fires.

    python benchmarks/serve_kill.py --kills 200

The model is a tiny random one, so that an edit takes a fraction of a second; server, store and edits are the real ones.  Every
life orders edits and is killed at a random moment.  The next one must hold every edit whose job was seen done, and every edit
that it lists as active must answer its own question with its own answer.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

from serving import ROOT, Client, data_url

sys.path[:0] = [str(ROOT), str(ROOT / "src")]
SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "common_directions": 4}
ANSWERS = ("golden tea", "a cat", "two cups", "the beach")


def life(port: int, store: str, vlm: object) -> int:
    """A server in a process of its own; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        faulthandler.dump_traceback_later(600, exit=True)  # a life that hangs says where
        import uvicorn

        from vledit.editors.edited_model import EditedModel
        from vledit.serve.app import create_app
        from vledit.serve.settings import ServeSettings

        app = create_app(ServeSettings(store=store, port=port), EditedModel(vlm))  # type: ignore[arg-type]
        uvicorn.run(app, port=port, log_level="error")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def ready(port: int) -> Client:
    """A client, once the server answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            client = Client(f"http://127.0.0.1:{port}", 30)
            if client.call("GET", "/readyz")[0] == 200:
                return client
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the server did not come up")


def check(client: Client, acknowledged: dict[str, tuple[str, str, str]], model: str, last: int) -> tuple[int, int]:
    """Whether everything is as it must be; numbers of edits and of those that were asked."""
    listed = {one["id"]: one for one in client.call("GET", "/v1/edits?limit=1000")[2]["data"]}
    missing = [id for id in acknowledged if id not in listed]
    assert not missing, f"acknowledged, but not there: {missing}"
    active = [id for id, one in listed.items() if one["status"] == "active"]
    for id in active[:last]:
        if id in acknowledged:
            picture, question, answer = acknowledged[id]
            status, said = client.ask(model, picture, question, max_tokens=8)
            assert (status, said) == (200, answer), f"edit {id} answers {said!r} instead of {answer!r}"
    history = client.call("GET", "/v1/history?limit=1000")[2]["data"]
    assert [line["number"] for line in history] == list(range(len(history), 0, -1)), "a revision is missing"
    added = {line["edit"] for line in history if line["action"] == "added"}
    assert added == set(listed), f"half an edit: {added ^ set(listed)}"
    return len(listed), min(last, len(active))


def main() -> None:
    """Prints what came of it; an assertion fails where something was lost."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    import torch

    torch.set_num_threads(1)
    print(run(given.kills, given.seed))


def run(kills: int, seed: int) -> str:
    """What came of it."""
    from tests.vlm.models import build, picture

    dice, vlm = random.Random(seed), build("pocket")
    assert vlm.fingerprint
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    acknowledged: dict[str, tuple[str, str, str]] = {}
    mid_edit = ordered = 0
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store.db")
        for kill in range(kills):
            child = life(port, store, vlm)
            client = ready(port)
            check(client, acknowledged, "tiny-pocket", 3)
            jobs = {}
            for turn in range(3):
                id, url = f"k{kill}-{turn}", data_url(picture(ordered))
                question, answer = f"What is shown in the picture {ordered}?", ANSWERS[ordered % len(ANSWERS)]
                ordered += 1
                body = {"question": question, "answer": answer, "image": url, "rephrases": ["What is seen?"]}
                body |= {"id": id, "settings": SETTINGS, "probes": "none"}
                jobs[client.call("POST", "/v1/edits", body)[2]["id"]] = (id, url, question, answer)
            until = time.monotonic() + dice.uniform(0, 1.0)
            states = {}
            while time.monotonic() < until:
                for job, (id, *fact) in jobs.items():
                    states[job] = client.call("GET", f"/v1/edits/jobs/{job}")[2]["status"]
                    if states[job] == "done":
                        acknowledged[id] = tuple(fact)  # type: ignore[assignment]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            mid_edit += any(state in ("queued", "running") for state in states.values()) or not states
        child = life(port, store, vlm)
        edits, asked = check(ready(port), acknowledged, "tiny-pocket", 50)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return (
        f"{kills} kills -9, {mid_edit} of them while edits were made or waited; seed {seed}\n"
        f"{ordered} edits ordered, {len(acknowledged)} acknowledged: all there; {edits} in the store, {asked} asked at the end"
    )


if __name__ == "__main__":
    main()
