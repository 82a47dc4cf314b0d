"""Answers a second of a served `pocket`: one client after the other, 8 at once, with edits and without.

    python benchmarks/serve_throughput.py --answers 64

"One by one" is a single client that waits for each answer.  The four ways are run in turn, several rounds, every second one
backwards, on one warm server; two ways are compared within each round, and the median of the rounds is given.  Beside answers a
second by the clock it prints the server's processor time for an answer (Linux): on a machine that others use as well, that is
what can be compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from serving import QUESTION, Client, brand_pictures, processor_seconds, served


def rate(
    address: str, model: str, pictures: list[str], question: str, clients: int, answers: int, tokens: int
) -> float:
    """Answers a second."""
    turn = iter(range(answers))
    lock, failed = threading.Lock(), []

    def work() -> None:
        client = Client(address)
        while True:
            with lock:
                number = next(turn, None)
            if number is None:
                return
            more = {"max_tokens": tokens} if tokens else {}
            try:
                status, text = client.ask(model, pictures[number % len(pictures)], question, **more)
            except OSError as error:
                status, text = 0, f"{type(error).__name__}: {error}"
            if status != 200:
                failed.append(text)
                return

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])
    return answers / (time.perf_counter() - began)


def batches(address: str) -> tuple[float, float]:
    """How many batches were answered so far, and how many questions in them."""
    page = Client(address).call("GET", "/metrics")[2].decode()
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("vledit_batch_size_"))
    return float(figures["vledit_batch_size_count"]), float(figures["vledit_batch_size_sum"])


def main() -> None:
    """Prints a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--answers", type=int, default=48, help="of 8 clients in each round; one by one half as many")
    options.add_argument(
        "--question", default=QUESTION, help="short answers by default; 'Describe the picture.' for long"
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--edits", type=int, default=20)
    options.add_argument("--threads", type=int, default=0, help="of torch; 0: as many as torch takes by itself")
    options.add_argument("--workers", type=int, default=0, help="of the server (0: its own choice)")
    options.add_argument("--tokens", type=int, default=0, help="most tokens of an answer; 0: the server's own limit")
    options.add_argument("--device", default="cpu", help="of the server")
    given = options.parse_args()
    pictures = [url for _, url in brand_pictures(32)]
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), "--device", given.device, "--workers", str(given.workers), threads=given.threads) as (
            address,
            process,
        ),
    ):
        client = Client(address)
        for number in range(given.edits):
            body = {"question": "What is this?", "answer": f"thing {number}", "image": pictures[number % len(pictures)]}
            status, _, job = client.call("POST", "/v1/edits", {**body, "probes": "none", "id": f"e{number}"})
            if status != 202 or client.job(job["id"])["status"] != "done":
                raise RuntimeError(f"edit {number} failed: {job}")
        ways = {  # those that are compared lie beside each other
            "one by one, no edits": ("pocket-base", 1),
            "8 clients, no edits": ("pocket-base", 8),
            f"8 clients, {given.edits} edits": ("pocket", 8),
            f"one by one, {given.edits} edits": ("pocket", 1),
        }
        for model, clients in ways.values():
            rate(address, model, pictures, given.question, clients, 2 * clients, given.tokens)  # warm
        rates: dict[str, list[float]] = {way: [] for way in ways}
        costs: dict[str, list[float]] = {way: [] for way in ways}
        sizes: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(given.rounds):
            for way, (model, clients) in list(ways.items())[:: -1 if turn % 2 else 1]:
                count, questions = batches(address)
                before = processor_seconds(process.pid)
                answers = given.answers if clients > 1 else given.answers // 2
                rates[way].append(rate(address, model, pictures, given.question, clients, answers, given.tokens))
                costs[way].append((processor_seconds(process.pid) - before) / answers)
                now_count, now_questions = batches(address)
                sizes[way].append((now_questions - questions) / (now_count - count))
        for way, found in rates.items():
            print(
                f"{way:26} {statistics.median(found):7.2f} answers/s (rounds {min(found):.2f} to {max(found):.2f}), "
                f"{1000 * statistics.median(costs[way]):.0f} ms of processor time each, "
                f"{statistics.median(sizes[way]):.1f} in a batch"
            )
        print("                                        by the clock   by processor time")
        alone_base, many_base, many, alone = ways
        for name, more, less in (
            ("8 clients : one by one, with edits", many, alone),
            ("8 clients : one by one, without edits", many_base, alone_base),
            ("with edits : without, 8 clients", many, many_base),
        ):
            clock = [one / other for one, other in zip(rates[more], rates[less], strict=True)]
            spent = [other / one for one, other in zip(costs[more], costs[less], strict=True)]
            print(
                f"{name:40}{statistics.median(clock):8.2f}{statistics.median(spent):16.2f}"
                f"   (rounds {min(clock):.2f} to {max(clock):.2f})"
            )


if __name__ == "__main__":
    main()
