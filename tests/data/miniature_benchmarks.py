"""Annotation files of the published forms in miniature, with pictures of a few pixels, written by hand after real records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

RECORD = {
    "src": "How many tennis balls are in the picture?",
    "pred": "no",
    "rephrase": '"What is the number of tennis balls depicted in the image?"',
    "alt": "2",
    "image": "val2014/COCO_val2014_000000451435.jpg",
    "image_rephrase": "val2014_image_rephrase/451435003_COCO_val2014_000000451435.png",
    "loc": "nq question: what purpose did seasonal monsoon winds have on trade",
    "loc_ans": "enabled European empire expansion into the Americas and trade routes to become established across the Atlantic",
    "m_loc": "val2014/COCO_val2014_000000297147.jpg",
    "m_loc_q": "What sport can you use this for?",
    "m_loc_a": "motocross",
}
"""E-VQA."""

CAPTION = {
    **RECORD,
    "src": "a photo of",
    "pred": "a group of people working in a bakery",
    "rephrase": "describe this picture,",
    "alt": "Employees working at a cafe that has donuts on the counter.\n",
    "image": "val2014/COCO_val2014_000000575018.jpg",
    "image_rephrase": "val2014_image_rephrase/COCO_val2014_000000575018.png",
}
"""E-IC."""

ENTITY = {
    "src": "What city is featured in the image?",
    "rephrase": "Can you identify the location shown in the picture?",
    "pred": "Wichita_Falls,_Texas",
    "alt": "Fort Smith, Arkansas",
    "image": "m.010bxh/bing_0.jpg",
    "image_rephrase": "m.010bxh/bing_3.jpg",
    "loc": "who ordered the japanese attack on pearl harbor",
    "loc_ans": "Emperor Hirohito",
    "m_loc": "m.0d9z_y/yahoo_0.jpg",
    "m_loc_q": "Which city straddling the state line is represented in the image?",
    "m_loc_a": "Texarkana",
}
"""VLKEB, eval.json."""

ONE_HOP = {
    **ENTITY,
    "port_new": [
        {
            "port_edit_q": "What timezone does Fort Smith, Arkansas follow?",
            "port_edit_a": "Central Time Zone",
            "port_q": "What is the time zone of the location shown in the picture?",
            "port_a": "Central Time Zone",
        }
    ],
}
"""VLKEB, eval_edit_onehop.json."""

MULTI_HOP = {
    **ENTITY,
    "port_new": [
        {"port_type": "1-hop", "Q&A": {"Question": "In which state is this city?", "Answer": "Arkansas"}},
        {"port_type": "2-hop", "Q&A": {"Question": "What is the capital of its state?", "Answer": "Little Rock"}},
        {"port_type": "2-hop", "Q&A": {"Question": "What river runs by its capital?", "Answer": "Arkansas River"}},
        {"port_type": "4-hop", "Q&A": {"Question": "Who governed it in 1990?", "Answer": "Bill_Clinton"}},
    ],
}
"""VLKEB, eval_multihop.json."""


def neighbour(pid: int, **other: Any) -> dict[str, Any]:
    """A record of ComprehendEdit's test set without lists."""
    return {
        "image": f"GQA/images/{pid}.jpg",
        "question": f"What is number {pid} called?",
        "rephrase": f"What is the name of number {pid}?",
        "answer": f"green parrot {pid}",
        "source": "GQA",
        "Category": "object recognition",
        "pid": pid,
        "locality_prompt": "when does twice upon a time come out",
        "locality_ground_truth": "25 December 2017",
        "multimodal_locality_image": "val2014/COCO_val2014_000000297147.jpg",
        "multimodal_locality_prompt": "What sport can you use this for?",
        "multimodal_locality_ground_truth": "motocross",
        **other,
    }


OKEDIT_ANNOTATION = {
    "question_id": 2971475,
    "image_id": 297147,
    "question_type": "four",
    "answers": [{"answer": "racing", "answer_id": 1}],
    "counterfact_answer": "ice skating",
    "counterfact_type": "image-text based",
    "counterfact_type_reason": "[image-text based], because …",
    "image_object": "motorcycle",
    "locality_answer": "'horse riding'",
    "locality_answer_train": "sailing",
    "locality_image_object": "horse",
}
OKEDIT_QUESTION = {
    "question_id": 2971475,
    "image_id": 297147,
    "question": "What sport can you use this for?",
    "rephrased_questions": [f"In which sport is it used, version {n}?" for n in range(10)] + [" "],
    "rephrased_questions_train": ["Which sport is it made for?", "It is made for which sport?"],
}


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    return path


def draw(root: Path, *names: str) -> Path:
    """Writes a small picture under each name below `root`, and returns `root`."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (40 * number % 256, 90, 200)).save(path)
    return root


def pictures_of(*records: dict[str, Any]) -> list[str]:
    """The names of all pictures that these records name."""
    fields = ("image", "image_rephrase", "m_loc", "multimodal_locality_image")
    return [record[field] for record in records for field in fields if record.get(field)]
