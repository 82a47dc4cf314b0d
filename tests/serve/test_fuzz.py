"""Whatever is sent: no 5xx, no hang, no traceback; whenever it is killed: nothing that was acknowledged is lost.

The long runs are benchmarks/serve_fuzz.py and benchmarks/serve_kill.py; here are short ones of the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from .conftest import Make, data_url, running

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_schema_holds_for_what_it_allows(make: Make):
    app = make()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    tried = set()
    for operation in operations:
        if operation.path.endswith("/events") or operation.path == "/v1/tokens":  # a stream; what would lock us out
            continue

        @settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def holds(case):
            response = case.call(headers={"host": "127.0.0.1"})
            case.validate_response(response, checks=(not_a_server_error,))
            assert b"Traceback" not in response.content
            tried.add((case.method, case.path, response.status_code < 400))

        holds()
    assert len({path for _, path, _ in tried}) > 15
    assert any(well for *_, well in tried)


def test_malformed_bodies_and_pictures_are_answered_with_what_is_wrong(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from serve_fuzz import fuzz  # pyright: ignore[reportMissingImports]

    with running(make()) as address:
        statuses, wrong, longest = fuzz(address, 160, 1, data_url(), clients=2)
    assert not wrong, wrong[0]
    assert sum(statuses.values()) == 160
    assert statuses[400] > 60
    assert longest < 30


def test_nothing_is_lost_when_it_is_killed_in_mid_edit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from serve_kill import run  # pyright: ignore[reportMissingImports]

    assert "all there" in run(kills=2, seed=5)
