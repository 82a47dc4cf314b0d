"""Comparisons and gates over results files; no model is needed, so the files are written by hand."""

from __future__ import annotations

import json
import random

import pytest

from vledit.errors import InputError, MissingDataError, UnknownNameError
from vledit.evaluate.compare import check_comparable, choose, compare
from vledit.evaluate.gate import estimates_of, judge, read_thresholds
from vledit.evaluate.metrics import estimates
from vledit.evaluate.outcomes import decided
from vledit.evaluate.results import read_results

from .small import outcome

MANIFEST = {
    "schema": 2, "metrics": "2", "model": "m", "fingerprint": "f", "dtype": "torch.float32", "benchmark": "icons",
    "split": "test", "protocol": "single", "cases": 40,
}  # fmt: skip


def write(path, variants, count=40, start=0, **manifest):
    """`variants`: name → chance that a probe goes well; the luck of a case is the same for every variant."""
    lines = [{"manifest": {**MANIFEST, **manifest}, "environment": {}}]
    for number in range(start, start + count):
        name = f"case-{number}"
        outcomes = {}
        for variant, chance in variants.items():
            luck = random.Random(number)
            outcomes[variant] = [
                outcome(name, "edit", True),
                *(outcome(name, "text", luck.random() < chance, index=i) for i in range(4)),
                *(outcome(name, "image", luck.random() < chance, index=i) for i in range(4)),
                *(outcome(name, "near_image", False, same=luck.random() < chance, index=i) for i in range(4)),
            ]
        one = next(iter(outcomes.values()))
        probes = [{k: getattr(o, k) for k in ("family", "cell", "index", "base_new", "base_new_token")} for o in one]
        lines.append({"base": name, "request": {"question": "q", "answer": "a"}, "probes": probes})
        for variant, found in outcomes.items():
            edit = {"seconds": 1.0 + number % 2, "nbytes": 100}
            record = {
                "variant": variant,
                "case": name,
                "after": 1,
                "order": 1,
                "error": "",
                "error_type": "",
                "stage": "",
            }
            lines.append({**record, "seconds": 1, "edit": edit, "outcomes": [decided(o) for o in found]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def records(path):
    return read_results(path)[1]


def by_name(found):
    return {one.metric: one for one in found.differences}


def test_a_real_difference_is_significant_and_none_is_not(tmp_path):
    path = write(tmp_path / "a.jsonl", {"good": 0.9, "bad": 0.6})
    pair = [choose(records(path), name, path) for name in ("bad", "good")]
    found = compare(*pair)
    table = by_name(found)
    assert (found.common, found.only_first, found.only_second) == (40, 0, 0)
    for name in ("HM", "text_generality", "near_image_preserved"):
        assert table[name].significant
        assert table[name].low > 0
        assert table[name].p < 0.01
    assert not table["reliability"].significant
    assert not table["seconds_per_edit"].significant
    alike = by_name(compare(pair[0], pair[0]))
    assert all(one.difference == 0 and one.p == 1 and not one.significant for one in alike.values())
    assert table["HM"].first == pytest.approx(estimates([o for r in pair[0][1] for o in r["outcomes"]])["HM"].mean)


def test_pairing_sees_what_two_separate_intervals_do_not(tmp_path):
    """Cases of very different difficulty, on which B is better by a little everywhere."""
    path = tmp_path / "p.jsonl"
    write(path, {"a": 0.5, "b": 0.5}, count=20)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "variant" in line:
            number = int(line["case"].split("-")[1])
            good = number % 4 + (line["variant"] == "b" and number % 4 < 3)
            for place, one in enumerate(line["outcomes"][1:5]):
                one["changed_new"] = place < good
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = {name: choose(records(path), name, path) for name in "ab"}
    separate = {
        name: estimates([o for r in some for o in r["outcomes"]])["text_generality"]
        for name, (_, some) in groups.items()
    }
    assert separate["a"].high > separate["b"].low
    assert by_name(compare(groups["a"], groups["b"]))["text_generality"].significant


def test_differences_are_paired():
    """Edits of every difficulty, each a quarter better with B: what is the same for all is known exactly."""

    def of(name, more):
        outcomes = {
            i: [outcome(f"{i}", "text", place < i % 4 + more, index=place) for place in range(4)] for i in range(40)
        }
        return name, [{"case": str(i), "after": 1, "outcomes": some} for i, some in outcomes.items()]

    found = by_name(compare(of("a", 0), of("b", 1)))["text_generality"]
    assert found.difference == pytest.approx(0.25)
    assert found.low > 0.15  # two separate bootstraps would leave 0.09
    assert found.high < 0.35


def test_only_cases_in_common_count(tmp_path):
    first = write(tmp_path / "a.jsonl", {"e": 0.9}, count=30)
    second = write(tmp_path / "b.jsonl", {"e": 0.9}, count=30, start=20)
    found = compare(choose(records(first), None, first), choose(records(second), None, second))
    assert (found.common, found.only_first, found.only_second) == (10, 20, 20)
    assert all(one.difference == 0 for one in found.differences)
    far = write(tmp_path / "c.jsonl", {"e": 0.9}, count=3, start=90)
    with pytest.raises(InputError, match="no case in common"):
        compare(choose(records(first), None, first), choose(records(far), None, far))


def test_other_models_and_benchmarks_are_not_comparable():
    assert check_comparable(MANIFEST, MANIFEST) == []
    assert check_comparable(MANIFEST, {**MANIFEST, "fingerprint": "g", "benchmark": "vlkeb"}) == [
        "fingerprint (f against g)",
        "benchmark (icons against vlkeb)",
    ]


def test_the_variant_has_to_be_said_where_there_are_several(tmp_path):
    path = write(tmp_path / "a.jsonl", {"full": 0.9, "span": 0.6}, count=2)
    with pytest.raises(InputError, match=r"full, span; say which"):
        choose(records(path), None, path)
    with pytest.raises(UnknownNameError, match="Did you mean 'span'"):
        choose(records(path), "spam", path)


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_file(tmp_path):
    return write(tmp_path / "r.jsonl", {"good": 0.95, "bad": 0.5})


def gate(tmp_path, text):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    return read_thresholds(path)


def test_a_gate_holds_or_does_not(tmp_path, run_file):
    wanted = gate(
        tmp_path,
        "reliability: 0.99\n"
        "text_generality: {mean: 0.9, low: 0.85}\n"
        "seconds_per_edit: {mean_at_most: 2}\n"
        "failed_edits: {mean_at_most: 0}\n"
        "variants:\n  bad: {HM: 0.9}\n",
    )
    verdicts = judge(records(run_file), wanted)
    assert len(verdicts) == 5 + 6
    assert all(v.holds for v in verdicts if v.variant == "good")
    broken = {(v.threshold.metric, v.threshold.bound) for v in verdicts if not v.holds}
    assert broken == {("text_generality", "mean"), ("text_generality", "low"), ("HM", "mean")}
    assert "bad: text_generality (lower end) 0." in "\n".join(map(str, verdicts))


def test_the_lower_end_is_asked_for_more_than_the_mean(tmp_path, run_file):
    mean = next(v for v in judge(records(run_file), gate(tmp_path, "HM: 0.1\n")) if v.variant == "good").found
    low = next(v for v in judge(records(run_file), gate(tmp_path, "HM: {low: 0.1}\n")) if v.variant == "good").found
    assert low < mean


def test_a_metric_that_the_run_does_not_have_is_not_kept(tmp_path, run_file):
    verdicts = judge(records(run_file), gate(tmp_path, "black_preserved: 0.0\n"))
    assert not any(v.holds for v in verdicts)
    assert "there is none" in str(verdicts[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("relability: 0.9", "Did you mean 'reliability'"),
        ("near_image_preservd: 0.9", "Did you mean 'near_image_preserved'"),
        ("reliability: {lower: 0.9}", "Did you mean 'low'"),
        ("reliability: high", "a number is expected"),
        ("reliability: true", "a number is expected"),
        ("variants: {god: {HM: 0.5}}", "Did you mean 'good'"),
        ("variants: [good]", "has to map"),
        ("", "no thresholds"),
        ("- 1", "no thresholds"),
        ("a: [", "not readable YAML"),
    ],
)
def test_mistakes_in_a_gate_are_told(tmp_path, run_file, text, words):
    with pytest.raises(InputError, match=words):
        judge(records(run_file), gate(tmp_path, text))


def test_no_gate_file(tmp_path):
    with pytest.raises(MissingDataError, match="no file"):
        read_thresholds(tmp_path / "none.yaml")


def test_what_is_exactly_at_a_threshold_keeps_it(tmp_path, run_file):
    text = (
        "reliability: {mean: 1, mean_at_most: 1, high_at_most: 1}\nfailed_edits: {mean: 0, low: 0, high_at_most: 0}\n"
    )
    verdicts = judge(records(run_file), gate(tmp_path, text))
    assert len(verdicts) == 12
    assert all(v.holds for v in verdicts)
    beyond = judge(records(run_file), gate(tmp_path, "reliability: {low: 1, high_at_most: 0.99}\n"))
    assert not any(v.holds for v in beyond)
    assert beyond[1].as_record() == {
        "variant": "good", "metric": "reliability", "bound": "high_at_most", "value": 0.99, "found": 1.0, "holds": False
    }  # fmt: skip


def test_failed_edits_are_counted(run_file):
    found = records(run_file)
    for one in found[:3]:
        one["error"] = "no such picture"
    estimate = estimates_of(found)["failed_edits"]
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (3.0, 3.0, 3.0, 80)
