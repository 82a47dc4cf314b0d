"""The settings of a server: where its edits are stored, who may change them, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """What is refused because it is too much.

    Args:
        body_bytes: of one request.
        codebook_bytes: of a codebook file that is taken in.
        body_seconds: how long a request's body may take to arrive.
        picture_bytes, picture_megapixels: of one picture.
        pictures: in one request.
        messages: in one conversation.
        text: characters of one question, answer or reason.
        answer_tokens: most that a request may ask for.
        waiting: questions that wait; the next one gets 429.
        waiting_edits: edits that wait to be made; the next one gets 429.
        batch: questions that are answered together.
        gather_seconds: how long the first of a batch waits for others.
        probes: in the probe set.
        requests_per_minute: of one token, or one address where there is no token; 0: any number.
    """

    body_bytes: int = 24 << 20
    codebook_bytes: int = 1 << 30
    body_seconds: float = 30.0
    picture_bytes: int = 8 << 20
    picture_megapixels: float = 16.0
    pictures: int = 8
    messages: int = 64
    text: int = 8000
    answer_tokens: int = 1024
    waiting: int = 64
    waiting_edits: int = 16
    batch: int = 8
    gather_seconds: float = 0.004
    probes: int = 200
    requests_per_minute: int = 0


@dataclass(frozen=True)
class ServeSettings:
    """Everything that `vledit serve` can be told.

    Args:
        model, device, dtype, quantization, adapter: as for `vledit.load`.
        store: a file (SQLite) or the URL of a PostgreSQL database.
        codebook: a codebook file whose edits are taken in at the start, where they are not there yet.
        edits: a folder that `EditedModel.save_pretrained` wrote: its always-on edits and memories act as they are, its codebook
            is taken in as `codebook` is.
        host, port: where to listen.
        open_read: whether anybody may ask and look, without a token, beyond loopback too.
        workers: batches that are answered at the same time; 0 lets the model's size and the processor's cores decide.
        drain_seconds: how long requests that run may take when the server is told to stop.
        poll_seconds: how often a SQLite file is looked at for what other processes committed.
    """

    model: str = "pocket"
    device: str = "cpu"
    dtype: str = "float32"
    quantization: str | None = None
    adapter: str | None = None
    store: str = "vledit-serve.db"
    codebook: str | None = None
    edits: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    open_read: bool = False
    workers: int = 0
    drain_seconds: float = 30.0
    poll_seconds: float = 0.25
    log_format: str = "json"
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK or self.host.startswith("127.")
