"""`make bench`: how figures are judged, told and drawn, and what its codebook files are."""

import sys
from pathlib import Path

import pytest

from vledit.codebook import Codebook

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from figures import books, drawing
from figures.measuring import Bench, Figure


@pytest.mark.parametrize(
    ("value", "goal", "at_most", "verdict"),
    [
        (1.02, 1.03, True, "met"),
        (1.04, 1.03, True, "missed"),
        (50, 35, False, "met"),
        (30, 35, False, "missed"),
        (1, None, True, "-"),
    ],
)
def test_a_figure_is_held_against_its_goal(value, goal, at_most, verdict):
    figure = Figure("answer", value, value, value, goal=goal, at_most=at_most)
    assert figure.verdict == verdict
    assert figure.line().endswith(verdict)


def test_ratios_are_taken_round_by_round():
    clock = iter([0, 1, 1, 3, 10, 14, 20, 24, 30, 31, 40, 44])  # seconds: 1 and 2, 4 and 4, 1 and 4
    told = []
    bench = Bench(None, 3, True, tell=told.append)
    bench.now = lambda: next(clock)  # type: ignore[method-assign]
    runs = []
    figure = bench.ratio("x", lambda: runs.append("first"), lambda: runs.append("second"))
    assert runs == ["first", "second"] * 4  # each once before, unmeasured
    assert (figure.low, figure.value, figure.high) == (1.0, 2.0, 4.0)
    assert told == bench.found == [figure]


def test_the_plot_has_a_line_for_every_series(tmp_path):
    figures = [Figure("a", 1.0 + n / 1e4, 1, 2, goal=1.1, series="fires", size=n) for n in (1, 100)]
    figures += [Figure("b", 50.0, 40, 60, unit="us", series="adding", size=n) for n in (1, 100)]
    drawing.draw(figures, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert text.count("<!-- fires -->") == text.count("<!-- adding -->") == 1


def test_files_that_are_written_at_once_are_what_codebooks_write(tmp_path):
    books.filled(tmp_path / "many.vledit", 30)
    with Codebook.open(tmp_path / "many.vledit") as book:
        assert book.verify() == 30
        assert [one.entry for one in book.decide(book.get("e7").key[None])] == ["e7"]
