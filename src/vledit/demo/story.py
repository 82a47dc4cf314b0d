"""What the demo asks: which mark is renamed, and every question that is put before and after.

Source: BalancEdit, Table 1 (a logo is renamed; rephrased texts and pictures follow, other logos do not).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from ..data.icons import Concept, Drawing, IconData

Kind = Literal["edited", "wording", "hand", "brand", "black", "fact", "text"]
Expected = Literal["new", "same", "open"]

RENAMED = ("Apple", "Raspberry Pi", "IBM", "HP", "Microsoft")
"""Brands that the demo renames, first choice first; the base has to know the mark."""
RIVALS = ("Dell", "HP", "IBM")
"""What a mark is renamed to: another maker of computers."""
NEIGHBOURS = (
    "IBM", "HP", "Raspberry Pi", "Microsoft", "Dell", "BlackBerry", "Intel", "AMD", "Nvidia", "Arduino", "Samsung",
    "Google", "Android", "Windows", "Linux", "Spotify", "Twitter", "GitHub",
)  # fmt: skip
"""Brands whose marks must keep their names, nearest in kind first."""
MOST_HANDS, MOST_BRANDS = 6, 6
SIDE = 192


@dataclass(frozen=True)
class Question:
    """One question of the demo.

    Args:
        kind: "edited" (the very picture and question), "wording", "hand" (the mark as another vendor draws it), "brand"
            (another mark), "black", "fact" (another question about the mark), "text" (without a picture).
        expected: "new" answer, the "same" as before, or "open" where the method promises nothing.
        right: the answer that the data set holds for right, or None.
        label: what is seen, for a person.
        source: icon set and its licence, for the page's credits; empty where there is no drawing.
        held_out: whether the base never saw this vendor's drawings in training.
    """

    kind: Kind
    image: Image.Image | None
    question: str
    expected: Expected
    right: str | None
    label: str
    source: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class Story:
    """The whole: what is edited, and every question; `left_out` says what the base does not know."""

    brand: str
    answer: str
    question: str
    rephrases: tuple[str, ...]
    questions: tuple[Question, ...]
    left_out: tuple[str, ...]

    @property
    def edited(self) -> Question:
        """The picture and question that the edit is made with."""
        return self.questions[0]


Ask = Callable[[Image.Image | None, str], str]


def write_story(data: IconData, ask: Ask, brand: str | None = None, answer: str | None = None) -> Story:
    """Chooses what the demo shows; only marks that the base (`ask`) names rightly are renamed or watched.

    Args:
        brand: whose mark is renamed; None: the first of `RENAMED` that the base knows.
        answer: the new name; None: the first of `RIVALS` that is not the brand itself.

    Raises:
        UnknownNameError: no such brand.  InputError: the base does not know the mark, or the names are the same.
    """
    question, *rephrases = data.wordings("brands", "brand", "train")[1:5]
    marks = {concept.name: concept for concept in data.concepts_of("brands")}
    if brand is not None and brand not in marks:
        raise UnknownNameError("brand", brand, marks)
    concept, original, wrong = _known_mark(data, ask, question, [brand] if brand else RENAMED, marks)
    name = concept.name
    new = answer or next(rival for rival in RIVALS if rival != name)
    if _plain(new) == _plain(name):
        raise InputError(f"--to: the mark of {name} is called '{new}' already. Give another name.")
    questions = [_drawn(data, "edited", original, question, "new")]
    for wording in data.wordings("brands", "brand", "test")[:2]:
        questions.append(_drawn(data, "wording", original, wording, "new"))
    for drawing in other_hands(data, original)[:MOST_HANDS]:
        questions.append(_drawn(data, "hand", drawing, question, "new"))
    kept, unknown = _neighbours(data, ask, question, {_plain(name), _plain(new)}, marks)
    questions += [_drawn(data, "brand", drawing, question, "same") for drawing in kept]
    black = Image.new("RGB", (SIDE, SIDE))
    questions.append(Question("black", black, question, "same", "nothing", "a black picture"))
    for kind in ("product", "industry"):
        asked = data.wordings("brands", kind, "train")[0]
        questions.append(_drawn(data, "fact", original, asked, "open", concept.facts[kind]))
    product = data.text_wordings("brands.product", "train")[0].format(name=name)
    capital = data.text_wordings("flags.capital", "train")[0].format(name="France")
    for asked, right in ((product, concept.facts["product"]), (capital, "Paris")):
        questions.append(Question("text", None, asked, "same", right, "no picture"))
    return Story(name, new, question, tuple(rephrases), tuple(questions), (*wrong, *unknown))


def _known_mark(
    data: IconData, ask: Ask, question: str, names: list[str] | tuple[str, ...], marks: dict[str, Concept]
) -> tuple[Concept, Drawing, tuple[str, ...]]:
    """The first brand with a drawing that the base names rightly, and what was passed over."""
    passed: list[str] = []
    for name in names:
        if name not in marks:
            continue
        said = ""
        for drawing in sorted(data.drawings_of(marks[name].id), key=_plainness):
            said = ask(_picture(data, drawing), question)
            if is_right(said, name):
                return marks[name], drawing, tuple(passed)
        passed.append(f"{name} (called “{said}”)")
    raise InputError(
        f"--brand: the base model names no drawing of {', '.join(names)} rightly, so there is nothing to rename. "
        "Give another --brand."
    )


def _plainness(drawing: Drawing) -> tuple[bool, bool]:
    """Drawings of vendors that the base has seen come first, and of those the plain mark before a decorated tile."""
    return drawing.split != "train", drawing.style != "mono"


def other_hands(data: IconData, original: Drawing) -> list[Drawing]:
    """One drawing by every other hand; vendors that the base never saw come first, because they show most."""
    found: dict[str, Drawing] = {}
    for drawing in data.drawings_of(original.concept):
        if drawing.hand != original.hand:
            found.setdefault(drawing.hand, drawing)
    return sorted(found.values(), key=lambda drawing: drawing.split != "held_out")


def _neighbours(
    data: IconData, ask: Ask, question: str, without: set[str], marks: dict[str, Concept]
) -> tuple[list[Drawing], list[str]]:
    """Drawings of other brands that the base names rightly, and the brands that it does not.

    The rival whose name is given away is left out (`without`): its mark would be called so by a leaking edit, too.
    """
    kept: list[Drawing] = []
    unknown: list[str] = []
    for name in NEIGHBOURS:
        if _plain(name) in without or name not in marks or len(kept) == MOST_BRANDS:
            continue
        drawing = next(iter(data.drawings_of(marks[name].id)))
        said = ask(_picture(data, drawing), question)
        if is_right(said, name):
            kept.append(drawing)
        else:
            unknown.append(f"{name} (called “{said}”)")
    return kept, unknown


def _drawn(
    data: IconData, kind: Kind, drawing: Drawing, question: str, expected: Expected, right: str | None = None
) -> Question:
    from ..data.icons.sets import BY_NAME

    concept = data.concepts[drawing.concept]
    licence = BY_NAME[drawing.set].licence if drawing.set in BY_NAME else "?"
    return Question(
        kind,
        _picture(data, drawing),
        question,
        expected,
        right or concept.name,
        f"{concept.name} by {drawing.set}",
        f"{drawing.set} ({licence})",
        drawing.split == "held_out",
    )


def _picture(data: IconData, drawing: Drawing) -> Image.Image:
    return data.composite(drawing, 0, "clean", SIDE)


def is_right(said: str, right: str) -> bool:
    """Whether an answer is the expected one, but for case and spacing."""
    return _plain(said) == _plain(right)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def groups(story: Story) -> Iterator[tuple[str, str, list[int]]]:
    """Yields (kind, heading, indices of its questions) in the order of the story."""
    headings = {
        "edited": "The edited picture",
        "wording": "The same picture, asked in other words",
        "hand": "The same mark, drawn by other hands",
        "brand": "Other brands",
        "black": "A black picture",
        "fact": "Another question about the same mark",
        "text": "Questions without a picture",
    }
    for kind, heading in headings.items():
        rows = [index for index, question in enumerate(story.questions) if question.kind == kind]
        if rows:
            yield kind, heading, rows
