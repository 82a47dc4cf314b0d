"""Tables: every format gives the same rows, every row that is unfit is named with its line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vledit.data.case import EditRequest
from vledit.data.edit_rows import edit_table
from vledit.data.question_rows import question_table
from vledit.data.tables import read_table, table_of
from vledit.errors import InputError

CSV = """image,question,answer,rephrases,id,note,colour
cat.png,"What, exactly,
is this?",a cat,Which animal?|What animal?,one,seen by hand,red

,Who made it?,nobody,,,,
missing.png,What is this?,a dog,,,,
text.png,What is this?,a dog,,,,
cat.png,,a dog,,,,
cat.png,What is this?,,,,,
cat.png,What is this?,a dog
cat.png,Which one?,this one,,one,,
"""


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cat.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "edits.csv").write_text(CSV)
    return tmp_path


def test_every_row_is_an_edit_or_is_named_with_its_line_and_reason(folder):
    found = edit_table(folder / "edits.csv")
    assert [one.line for one in found.wanted] == [2, 5]
    first, second = (one.request for one in found.wanted)
    assert first.question == "What, exactly,\nis this?"
    assert first.rephrases == ("Which animal?", "What animal?")
    assert (first.id, found.wanted[0].note) == ("one", "seen by hand")
    assert second.image is None
    told = {one.line: str(one) for one in found.unfit}
    assert sorted(told) == [6, 7, 8, 9, 10, 11]
    for line, words in {
        6: "there is no file",
        7: "not a picture",
        8: "question is missing",
        9: "answer is missing",
        10: "has 3 cells",
        11: "line 2",
    }.items():
        assert words in told[line]
    assert found.unused == ("colour",)
    assert found.rows == 8


ROWS = [
    {"image": "cat.png", "question": "What is this?", "answer": "a cat", "rephrases": ["Which animal?"], "id": "7"},
    {"question": "Who made it?", "answer": "nobody"},
]


def as_yaml(rows):
    import yaml

    return yaml.safe_dump(rows, sort_keys=False)


@pytest.mark.parametrize(
    ("name", "write", "lines"),
    [
        ("a.jsonl", lambda rows: "\n".join(map(json.dumps, rows)), [1, 2]),
        ("a.json", lambda rows: json.dumps(rows, indent=1), [2, 11]),
        ("b.json", lambda rows: json.dumps({"about": "[", "edits": rows}, indent=0), [4, 13]),
        ("a.yaml", as_yaml, [1, 7]),
        ("b.yml", lambda rows: as_yaml({"edits": rows}), [2, 8]),
    ],
)
def test_formats_give_the_same_edits_and_the_line_of_each(folder, name, write, lines):
    (folder / name).write_text(write(ROWS))
    found = edit_table(folder / name)
    expected = edit_table(ROWS, images=[folder])
    assert [one.fact for one in found.wanted] == [one.fact for one in expected.wanted]
    assert [one.line for one in found.wanted] == lines
    assert found.wanted[0].request.id == "7"
    assert not found.unfit


def test_bad_lines_of_json_lines_and_rows_that_are_no_objects_are_named(folder):
    (folder / "a.jsonl").write_text(json.dumps(ROWS[1]) + "\n{half\n[1]\n")
    assert [str(one)[:8] for one in edit_table(folder / "a.jsonl").unfit] == ["line 2: ", "line 3: "]


def test_dataframes_requests_and_pictures_in_memory(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)  # the second row has NaN for a picture
    by_frame = edit_table(frame, images=[folder])
    requests = [EditRequest(Image.open(folder / "cat.png"), "What is this?", "a cat", ("Which animal?",), "7")]
    by_request = edit_table(iter([*requests, EditRequest(None, "Who made it?", "nobody")]))
    bytes_row = {
        **ROWS[0],
        "image": {"bytes": (folder / "cat.png").read_bytes(), "path": None},
    }  # as `datasets` has them
    for found in (by_frame, by_request, edit_table([bytes_row, ROWS[1]])):
        assert [one.fact for one in found.wanted] == [one.fact for one in edit_table(ROWS, images=[folder]).wanted]


def test_of_rows_about_one_fact_the_last_counts():
    rows = [
        {"question": "Who?", "answer": "Ann"},
        {"question": "Where?", "answer": "here"},
        {"question": "Which person?", "answer": "Bob", "rephrases": ["who?"]},
        {"question": "WHERE?", "answer": "Here"},
    ]
    found = edit_table(rows)
    assert [one.line for one in found.wanted] == [3, 4]
    assert [(one.line, one.by, one.same) for one in found.instead] == [(1, 3, False), (2, 4, True)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "image,question,anwser\n,Who?,Ann\n", "Is 'anwser' meant"),
        ("a.csv", "", "empty"),
        ("a.csv", "question,answer,answer\na,b,c\n", "twice"),
        ("a.json", "{}", "0 lists"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.yaml", "a: [", "cannot be read as YAML"),
        ("a.yaml", "3", "no list"),
        ("a.xlsx", "", "a file that ends in"),
        ("none.csv", None, "there is no file"),
    ],
)
def test_a_file_that_is_unfit_as_a_whole_says_why(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        edit_table(tmp_path / name)


def test_another_name_for_a_column(folder):
    (folder / "a.csv").write_text("src,target\nWho?,Ann\n")
    found = edit_table(folder / "a.csv", columns={"question": "src", "answer": "target"})
    assert found.wanted[0].request == EditRequest(None, "Who?", "Ann")
    with pytest.raises(InputError, match="'question' is missing"):
        edit_table(folder / "a.csv")


def test_what_is_no_table_is_refused():
    for wrong in (7, {"question": "Who?"}):
        with pytest.raises(InputError, match="is no table"):
            table_of(wrong)


def test_questions_with_groups_and_bad_rows(folder):
    (folder / "q.csv").write_text("image,question,group\ncat.png,What?,near\n,,\nno.png,What?,\n")
    found = question_table(folder / "q.csv")
    assert [(row.line, dict(row.probe.tags)) for row in found.rows] == [(2, {"group": "near"})]
    assert [one.line for one in found.unfit] == [4]
    with pytest.raises(InputError, match="line 4: image"):
        found.need_all_fit("--probes")


def test_an_empty_csv_column_is_there_all_the_same(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,id\nWho?,Ann,\n")
    assert read_table(tmp_path / "a.csv").columns == ("question", "answer", "id")
