"""OpenTelemetry traces, if the extra `tracing` is installed and an endpoint is set.

A span for every request and every batch is sent to OTEL_EXPORTER_OTLP_ENDPOINT by HTTP.  Spans do not contain questions,
pictures or tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_tracer: Any = None


def set_up() -> bool:
    """Starts tracing where it is asked for and installed; returns whether it does."""
    global _tracer
    if _tracer is None and any(os.environ.get(name) for name in ENDPOINTS):
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore
            from opentelemetry.sdk.resources import Resource  # pyright: ignore
            from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore
        except ImportError:
            return False
        named = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "vledit")})
        provider = TracerProvider(resource=named)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        _tracer = provider.get_tracer("vledit.serve")
    return _tracer is not None


def use(tracer: Any) -> None:
    """Sets the tracer (None: no traces)."""
    global _tracer
    _tracer = tracer


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Any]:
    """A span around the block, or nothing; yields it, or None."""
    if _tracer is None:
        yield None
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as current:
        yield current
