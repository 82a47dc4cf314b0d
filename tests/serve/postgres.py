"""A PostgreSQL of our own on a free port of this machine, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The folder with initdb and postgres, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3].split(".")[0]))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return None if path is None else Path(path).parent


def _user() -> list[str]:
    """PostgreSQL refuses to run as root: where we are, it runs as another user."""
    if os.geteuid():
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@contextmanager
def postgres() -> Iterator[str]:
    """Starts it and stops it; the URL of an empty database."""
    folder = programs()
    assert folder is not None
    data = Path(tempfile.mkdtemp(prefix="vledit-pg-"))
    if _user():
        shutil.chown(data, "nobody", "nogroup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": data}
    initdb = [folder / "initdb", "-D", data / "db", "-U", "vledit", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*_user(), *initdb], check=True, **quiet)
    options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    listed = [f"-c{name}={value}" for name, value in options.items()]
    server = subprocess.Popen([*_user(), folder / "postgres", "-D", data / "db", *listed], **quiet)
    try:
        ready = [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        for _ in range(100):
            if subprocess.run(ready, **quiet).returncode == 0:
                break
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError("PostgreSQL did not start")
        yield f"postgresql://vledit@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients
        server.wait(20)
        shutil.rmtree(data, ignore_errors=True)
