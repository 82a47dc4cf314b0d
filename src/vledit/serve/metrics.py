"""What Prometheus reads: one registry per server, so that several can live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vledit_requests_total",
            "Requests by route and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "vledit_request_seconds",
            "Time to the end of the response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "vledit_batch_size", "Questions answered together.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "vledit_batch_seconds", "Time of one batch.", buckets=_SECONDS, registry=self.registry
        )
        self.answers = Counter("vledit_answers_total", "Answers by who gave them.", ["by"], registry=self.registry)
        self.tokens = Counter("vledit_answer_tokens_total", "Tokens of answers.", registry=self.registry)
        self.edits = Counter(
            "vledit_edit_jobs_total", "Edits that were asked for, by outcome.", ["outcome"], registry=self.registry
        )
        self.edit_seconds = Histogram(
            "vledit_edit_seconds", "Time to make an edit.", buckets=_SECONDS, registry=self.registry
        )
        self.waiting = Gauge("vledit_waiting", "Questions that wait.", registry=self.registry)
        self.waiting_edits = Gauge("vledit_waiting_edits", "Edits that wait.", registry=self.registry)
        self.restarts = Gauge(
            "vledit_thread_restarts", "Threads of the server that failed and started anew.", registry=self.registry
        )
        self.revision = Gauge("vledit_revision", "Revision of the edits that answer.", registry=self.registry)
        self.active = Gauge("vledit_active_edits", "Edits that act.", registry=self.registry)

    def batch(self, size: int, seconds: float) -> None:
        """A batch of questions was answered."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
