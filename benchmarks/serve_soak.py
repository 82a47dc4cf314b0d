"""A served `pocket` under mixed asking and editing from 8 clients: errors, memory, p50 and p99.

    python benchmarks/serve_soak.py --minutes 30

Six clients ask; two order edits, disable, enable, remove and restore them.  Ends with exit code 1 where anything failed, the
server ended, or memory still grew by over 2 % from the last eighth but one of the run to the last (edits that were used once stay
in memory, up to a limit of 512 MB: until that is reached, memory grows with them).  `--samples` writes the memory,
and how many answers and edits there were, every few seconds as CSV; `--log` keeps the server's log.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving import QUESTION, Client, brand_pictures, memory, quantile, served


def main() -> None:
    """Prints what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1, help="of torch")
    options.add_argument("--workers", type=int, default=0, help="of the server (0: its own choice)")
    options.add_argument("--store", default="soak.db", help="a file, or the URL of a PostgreSQL database")
    options.add_argument("--patience", type=float, default=120, help="seconds a client waits for one answer or edit")
    options.add_argument("--samples", type=Path, help="CSV of seconds, resident MB, answers, edits, failures")
    options.add_argument("--log", type=Path, help="where the server's log is put at the end")
    given = options.parse_args()
    pictures = [url for _, url in brand_pictures(32)]
    asked: list[float] = []
    edited: list[float] = []
    failed: list[str] = []
    sizes: list[int] = []
    rows: list[tuple[int, float, int, int, int]] = []

    def ask(number: int, address: str, until: float) -> None:
        client, dice = Client(address, given.patience), random.Random(given.seed + number)
        while time.monotonic() < until:
            began = time.monotonic()
            status, text = client.ask(
                "pocket", dice.choice(pictures), dice.choice([QUESTION, "What is this?", "Whose symbol is it?"])
            )
            if status == 200:
                asked.append(time.monotonic() - began)
            else:
                failed.append(f"ask: {status} {text}")

    def edit(number: int, address: str, until: float) -> None:
        client, dice, turn = Client(address, given.patience), random.Random(given.seed + 100 + number), 0
        live: list[str] = []
        while time.monotonic() < until:
            turn += 1
            began = time.monotonic()
            id = f"c{number}-{turn}"
            body = {
                "question": f"What is thing {number} {turn % 40}?",
                "answer": f"thing {turn % 7}",
                "image": dice.choice(pictures),
            }
            status, _, job = client.call("POST", "/v1/edits", {**body, "id": id, "probes": "none"})
            document = client.job(job["id"], given.patience) if status == 202 else {"status": status, "error": job}
            if document["status"] == "done":
                edited.append(time.monotonic() - began)
                if document["result"]["edit"] == id:
                    live.append(id)
            elif (document.get("error") or {}).get("type") != "EditFailedError":  # not learnt: no fault of the server
                failed.append(f"edit: {document}")
            for action in ("disable", "enable", "remove", "restore"):
                if live:
                    status, _, found = client.call("POST", f"/v1/edits/{live[-1]}/{action}", {"reason": "soak"})
                    if status != 200:
                        failed.append(f"{action}: {status} {found}")
            while len(live) > 10:
                client.call("POST", f"/v1/edits/{live.pop(0)}/remove", {})
            time.sleep(2)

    def guarded(work: Callable[[int, str, float], None], number: int, address: str, until: float) -> None:
        try:
            work(number, address, until)
        except Exception as error:  # a client that stops silently would make the rest look well
            failed.append(f"{work.__name__} {number}: {type(error).__name__}: {error}")

    began, ended = time.monotonic(), None
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), "--store", given.store, "--workers", str(given.workers), threads=given.threads) as (
            address,
            process,
        ),
    ):
        until = time.monotonic() + 60 * given.minutes
        clients = [threading.Thread(target=guarded, args=(ask, n, address, until)) for n in range(6)]
        clients += [threading.Thread(target=guarded, args=(edit, n, address, until)) for n in range(2)]
        for client in clients:
            client.start()
        while time.monotonic() < until and (ended := process.poll()) is None:
            sizes.append(memory(process.pid))
            rows.append((round(time.monotonic() - began), sizes[-1] / 1e6, len(asked), len(edited), len(failed)))
            time.sleep(min(2.0, 6 * given.minutes))
        if ended is not None:
            failed.insert(0, f"the server ended with exit code {ended} after {time.monotonic() - began:.0f} s")
        for client in clients:
            client.join()
        if given.samples is not None:
            with given.samples.open("w", newline="") as stream:
                csv.writer(stream).writerows([("seconds", "resident_mb", "answers", "edits", "failed"), *rows])
        if given.log is not None:
            shutil.copy(Path(folder) / "server.log", given.log)
    eighth = max(1, len(sizes) // 8)
    first, second = sizes[-2 * eighth : -eighth] or sizes, sizes[-eighth:]
    growth = (sum(second) / len(second)) / (sum(first) / len(first)) - 1
    print(f"{given.minutes:g} minutes, 6 asking and 2 editing clients, seed {given.seed}")
    print(f"answers  {len(asked)}, p50 {quantile(asked, 0.5):.2f} s, p99 {quantile(asked, 0.99):.2f} s")
    print(f"edits    {len(edited)}, p50 {quantile(edited, 0.5):.2f} s, p99 {quantile(edited, 0.99):.2f} s")
    print(
        f"memory   {sizes[0] / 1e6:.0f} MB at the start, {max(sizes) / 1e6:.0f} MB at most, "
        f"last eighth but one to last: {growth:+.1%}"
    )
    print(f"failed   {len(failed)}" + (f", the first: {failed[0]}" if failed else ""))
    sys.exit(bool(failed) or growth > 0.02)


if __name__ == "__main__":
    main()
