"""The positive sample: another wording of the edited question.

BalancEdit, Sec. 3.2, lets the backbone rephrase.  Its rephrasing is used only if it is a question, differs from the original,
has about the same meaning (cosine of mean token embeddings), and gets the same answer from the backbone about the picture as the
original.  Otherwise the rephrasings supplied with the request are tried, then a rephraser plug-in (entry point group
`vledit.rephrasers`: a function from a question to a list of wordings), then fixed templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

import torch

from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.base import VLM
from ..vlm.measures import embedding_table

SOURCES = ("auto", "backbone", "supplied", "plugin")
PROMPT = "Rephrase this question in other words, keep its meaning, reply with the question only: {question}"
TEMPLATES = ("Please tell me: {question}", "{question} Give a short answer.", "Answer this question: {question}")


@dataclass(frozen=True)
class Positive:
    """A wording, where it came from ("backbone", "supplied", "plugin:<name>"), and why earlier ones were refused."""

    question: str
    source: str
    refused: tuple[str, ...] = ()


def choose(vlm: VLM, request: EditRequest, source: str = "auto", similarity: float = 0.6) -> Positive:
    """The first fit wording in the order backbone, supplied, plug-in, templates.

    Args:
        source: "auto" tries all; another name only that one.
        similarity: smallest cosine of mean token embeddings between the backbone's wording and the original.

    Raises:
        InputError: the one source that was asked for has no fit wording.
    """
    if source not in SOURCES:
        raise UnknownNameError("rephrase source", source, SOURCES)
    refused: list[str] = []
    for name, wording in _candidates(vlm, request, source):
        if name == "backbone":
            if reason := unfit(vlm, request, wording, similarity):
                refused.append(f"backbone: {reason}")
                continue
        elif _plain(wording) == _plain(request.question) or not wording.strip():
            refused.append(f"{name}: {wording!r} is the question itself")
            continue
        return Positive(wording, name, tuple(refused))
    raise InputError(
        f"rephrases: no fit wording from source '{source}' ({'; '.join(refused) or 'none given'}); supply one in the request."
    )


def _candidates(vlm: VLM, request: EditRequest, source: str) -> Iterator[tuple[str, str]]:
    if source in ("auto", "backbone"):
        yield "backbone", vlm.answer([None], [PROMPT.format(question=request.question)], max_new_tokens=40)[0]
    if source in ("auto", "supplied"):
        yield from (("supplied", wording) for wording in request.rephrases)
    if source in ("auto", "plugin"):
        for point in _plug_ins():
            yield from ((f"plugin:{point.name}", wording) for wording in _called(point.load(), request.question))
        yield from (("plugin:template", template.format(question=request.question)) for template in TEMPLATES)


@lru_cache(maxsize=1)
def _plug_ins() -> tuple[EntryPoint, ...]:
    """Looked up once: that reads the metadata of every installed package."""
    return tuple(entry_points(group="vledit.rephrasers"))


def _called(rephraser: Callable[[str], Iterable[str]], question: str) -> Iterable[str]:
    return rephraser(question)


def unfit(vlm: VLM, request: EditRequest, wording: str, similarity: float) -> str:
    """Why a wording by the backbone cannot be the positive sample; empty where it can."""
    if not wording or _plain(wording) == _plain(request.question):
        return f"{wording!r} is no other wording"
    if request.question.rstrip().endswith("?") and not wording.rstrip().endswith("?"):
        return f"{_short(wording)!r} is no question"
    found = cosine(vlm, request.question, wording)
    if found < similarity:
        return f"{_short(wording)!r} is too far from the question (cosine {found:.2f} < {similarity})"
    expected, answer = vlm.answer([request.image] * 2, [request.question, wording])
    if answer != expected:
        return f"{_short(wording)!r} is answered '{_short(answer)}', the question '{_short(expected)}'"
    return ""


@torch.no_grad()
def cosine(vlm: VLM, first: str, second: str) -> float:
    """Cosine of the mean input embeddings of two texts' tokens, the mean of the whole vocabulary taken out."""
    table = embedding_table(vlm.model)
    centre = vlm.__dict__.setdefault("_embedding_centre", table.float().mean(0))
    means = []
    for text in (first, second):
        ids = vlm.tokenizer(text.lower(), add_special_tokens=False)["input_ids"]
        means.append(table[torch.tensor(ids, device=table.device)].float().mean(0) - centre)
    return float(torch.nn.functional.cosine_similarity(means[0], means[1], dim=0))


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
