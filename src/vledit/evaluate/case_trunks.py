"""The questions of one case, run once through the frozen part of the model for all editors; and the keys read from it.

Everything below the edited site is frozen, so this part is the same for every edit.  The prompt's part of a teacher-forced trunk
equals that of the prompt alone (attention is causal), so keys are read from it, over the prompt's tokens only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..codebook import Query
from ..data.case import EditCase, EditRequest, Probe
from ..editors.answering import pool
from ..vlm.acting import Read
from ..vlm.base import VLM, Encoded, Site, Trunk
from ..vlm.columns import UnpackableError
from ..vlm.forest import Forest
from ..vlm.pictures import open_picture
from ..vlm.speaking import speak
from .trunk_rows import TrunkRows

RELIABILITY = "reliability"
MAX_NEW_TOKENS = 16
NOTED = ("mean", "last", "visual")
"""Tokens over which keys below the trunks are read while the prompts run; for others the trunks are lowered."""
BATCH = 16
"""Rows of like length that go through the trunk together."""
KEPT_BYTES = 2_000_000_000
"""Most that keys and values of a case's prompts may take until the base has answered: they are large in large models."""


@dataclass
class Asked:
    """One probe with its place in the case.

    Args:
        target: the answer that counts as new.
        base_answer: the base's greedy answer; None where no metric of this family asks for it.
        base_new, base_new_token: whether the base gives the target already, exactly and by tokens (NaN where not run).
        recognised: whether the base gives the answer in the probe's tag "truth"; None where there is none.
        edited: what the data set says that the base answers to the edited question.
    """

    family: str
    cell: str
    index: int
    probe: Probe
    target: str
    base_answer: str | None = None
    base_new: bool = False
    base_new_token: float = float("nan")
    recognised: bool | None = None
    edited: str = ""

    @property
    def is_locality(self) -> bool:
        return self.family == "locality"

    def tags(self) -> dict[str, str]:
        """The probe's tags and what was found out of the base: "recognised", "same_answer" (as the edited question's)."""
        found = dict(self.probe.tags)
        if self.recognised is not None:
            found["recognised"] = "yes" if self.recognised else "no"
        if self.is_locality and self.edited and self.base_answer is not None:
            alike = self.base_answer.strip().casefold() == self.edited.strip().casefold()
            found["same_answer"] = "yes" if alike else "no"
        return found


@dataclass
class CaseTrunks:
    """The questions of a case and their trunks: prompt + target, prompt + base answer.

    Args:
        layer: decoder layer at which the trunks end.
        tokens: whether every score is run; else only what `exact` needs.
        key_sites: lower sites; all rows' keys are read there while the prompts run, so that the trunks need not end there.
        checked: of which keys it has been checked that they are those of the prompts alone (`checks.check_routed_key`).
    """

    vlm: VLM
    case: EditCase
    layer: int
    asked: list[Asked]
    tokens: bool = True
    key_sites: tuple[str, ...] = ()
    targets: TrunkRows = field(default_factory=TrunkRows)
    sames: TrunkRows = field(default_factory=TrunkRows)
    checked: set[Query] = field(default_factory=set)
    _pictures: dict[Any, Any] = field(default_factory=dict)
    _forest: Forest | None = None
    _rows: dict[int, int] = field(default_factory=dict)  # row → its place in the forest
    _grown: dict[tuple[int, str], int] = field(default_factory=dict)  # (row, answer) → the answer's number there
    _keys: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, vlm: VLM, case: EditCase, layer: int, tokens: bool = True, key_sites: tuple[str, ...] = ()) -> Self:
        """The case with its probes in order and nothing run."""
        answer = case.request.answer
        edited = case.base_answer
        seen = {name: value for name, value in case.tags.items() if name == "seen"}
        asked = [Asked(RELIABILITY, "edit", 0, Probe(case.request.image, case.request.question, tags=seen), answer)]
        for family, cell, index, probe in case.probes():
            target = probe.answer if family == "portability" and probe.answer else answer
            asked.append(Asked(family, cell, index, probe, target, edited=edited))
        return cls(vlm, case, layer, asked, tokens, key_sites)

    def __len__(self) -> int:
        return len(self.asked)

    def picture(self, row: int) -> Any:
        """The row's picture, opened when it is needed first, once for all rows that have it; None where there is none."""
        image = self.asked[row].probe.image
        if image is None:
            return None
        key = _identity(image)
        if key not in self._pictures:
            self._pictures[key] = open_picture(image)
        return self._pictures[key]

    @cached_property
    def request(self) -> EditRequest:
        """The request with its picture opened."""
        request = self.case.request
        return EditRequest(self.picture(0), request.question, request.answer, request.rephrases, request.id)

    # --- trunks -------------------------------------------------------------------------------------------------

    def chunks(self, rows: Sequence[int], answers: Mapping[int, str] | None = None) -> list[list[int]]:
        """The rows in batches of at most `BATCH`, those of like length together, so that little is padding."""

        def length(row: int) -> int:
            probe = self.asked[row].probe
            prompt = len(self.vlm.prompt(probe.question, probe.image is not None).ids)
            return prompt + (len((answers or {}).get(row, "")) // 4)

        order = sorted(rows, key=lambda row: (self.asked[row].probe.image is None, length(row), row))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def grow(self, answers: Mapping[int, Sequence[str]]) -> None:
        """Puts these rows' prompts, each with several answers, through the trunk with what they share run once.

        What `run_trunks` and `speak` are asked for afterwards is then there already.  Nothing happens for models whose
        prompts cannot share a row: theirs are run one by one.
        """
        rows = list(answers)
        pictures, questions = [self.picture(row) for row in rows], [self.asked[row].probe.question for row in rows]
        sites = [site for site in map(self.vlm.resolve_site, self.key_sites) if site.layer < self.layer]
        also = sorted({site.layer for site in sites}) if len(rows) == len(self) else []
        texts = list(answers.values())
        try:
            self._forest = Forest.grow(
                self.vlm, self.layer, pictures, questions, texts, keep_bytes=KEPT_BYTES, also=also
            )
        except UnpackableError:
            self.drop_forest()
            self.layer = min([self.layer, *(site.layer for site in sites)])  # keys are read from the trunks
            return
        self._rows = {row: place for place, row in enumerate(rows)}
        self._grown = {(row, text): k for row, texts in answers.items() for k, text in enumerate(texts)}
        if also:
            self._note_keys(sites)

    def _note_keys(self, sites: Sequence[Site]) -> None:
        """Reads every row's keys at these sites, of whatever tokens a router may ask for, from what was grown."""
        assert self._forest is not None
        found: dict[tuple[str, str], dict[int, Tensor]] = {}
        for some in self.chunks(list(self._rows)):
            for site in sites:
                trunk = self._forest.trunk_below([self._rows[row] for row in some], site.layer)
                x = self.vlm.site_input(trunk, site)
                for tokens in NOTED:
                    keys = pool(x, trunk.encoded, tokens)
                    found.setdefault((str(site), tokens), {}).update(zip(some, keys, strict=True))
        for (site, tokens), keys in found.items():
            self._keys[site, "full", tokens] = torch.stack([keys[row] for row in range(len(self))])

    def drop_forest(self) -> None:
        """Forgets what was grown: it is as large as all prompts together."""
        self._forest, self._rows, self._grown = None, {}, {}

    def run_trunks(self, kind: TrunkRows, answers: Mapping[int, str]) -> None:
        """Puts prompt + answer of these rows through the trunk, or takes them from what was grown."""
        forest = self._forest
        grown = [row for row, text in answers.items() if forest is not None and (row, text) in self._grown]
        for some in self.chunks(grown, answers):
            assert forest is not None
            kind.add(forest.trunk([(self._rows[row], self._grown[row, answers[row]]) for row in some]), some)
        rest = [row for row, text in answers.items() if (row, text) not in self._grown]
        for some in self.chunks(rest, answers):
            questions = [self.asked[row].probe.question for row in some]
            pictures = [self.picture(row) for row in some]
            encoded = self.vlm.encode(pictures, questions, [answers[row] for row in some])
            trunk = self.vlm.trunk(encoded, self.layer)
            kind.add(replace(trunk, encoded=_without_pictures(encoded)), some)

    def speak(self, rows: Sequence[int]) -> dict[int, str]:
        """The base's greedy answers, from what was grown where that is possible."""
        forest = self._forest
        if forest is None:
            return self._generate(rows)
        known = [row for row in rows if forest.remembers(self._rows[row])]
        try:
            said = speak(forest, [self._rows[row] for row in known], MAX_NEW_TOKENS)
        except UnpackableError:  # this model's layers are called otherwise when a token comes alone
            return self._generate(rows)
        texts = self._generate([row for row in rows if row not in known])
        for row in known:
            one = said[self._rows[row]]
            texts[row] = one.text
            if forest.reads_as(self._rows[row], one.answer, one.text):
                self._grown[row, one.text] = one.answer
        return texts

    def _generate(self, rows: Sequence[int]) -> dict[int, str]:
        texts: dict[int, str] = {}
        for some in self.chunks(rows):
            pictures, questions = [self.picture(row) for row in some], [self.asked[row].probe.question for row in some]
            texts |= dict(zip(some, self.vlm.answer(pictures, questions, MAX_NEW_TOKENS), strict=True))
        return texts

    def need_targets(self, rows: Iterable[int]) -> None:
        """Makes sure that prompt + target has been run for these rows."""
        missing = {row: self.asked[row].target for row in rows if row not in self.targets}
        if missing:
            self.run_trunks(self.targets, missing)

    def lower(self, layer: int) -> None:
        """Ends the trunks at a lower layer: an edit's site lies below where they ended."""
        if layer >= self.layer:
            return
        targets = {row: self.asked[row].target for row in self.targets.rows()}
        sames = {row: self.asked[row].base_answer or "" for row in self.sames.rows()}
        self.layer, self.targets, self.sames, self._keys, self.checked = layer, TrunkRows(), TrunkRows(), {}, set()
        wanted = {
            row: list(dict.fromkeys(kind[row] for kind in (targets, sames) if row in kind))
            for row in sorted({*targets, *sames})
        }
        self.grow(wanted)
        self.run_trunks(self.targets, targets)
        self.run_trunks(self.sames, sames)
        self.drop_forest()

    def __post_init__(self) -> None:
        self.wanted = self.layer
        """The layer at which trunks were to end when the case was made."""

    # --- keys ---------------------------------------------------------------------------------------------------

    def keys(self, query: Query) -> Tensor:
        """(B, in) float32: the key of every row that a router asks for, over its prompt's tokens; read once."""
        # at inference there is no answer: a key made of prompt and answer is compared with the prompt's mean
        tokens = "mean" if query.key_tokens == "prompt+answer" else query.key_tokens
        kept = (query.site, query.prompt, tokens)
        if kept not in self._keys:
            site = self.vlm.resolve_site(query.site)
            read = self._read_full if query.prompt == "full" else self._read_questions
            self._keys[kept] = read(site, tokens)
        return self._keys[kept]

    def noted_keys(self) -> dict[tuple[str, str, str], Tensor]:
        """(site, prompt, tokens) → (B, in): the keys that are there."""
        return dict(self._keys)

    def take_keys(self, keys: Mapping[tuple[str, str, str], Tensor]) -> None:
        """Keys that were read before."""
        self._keys |= keys

    def read(self, read: Read) -> Tensor:
        """(B, ...): what a memory reads of every row's prompt, from the trunks that are there."""
        site = self.vlm.resolve_site(read.site)
        self.lower(site.layer)
        found: dict[int, Tensor] = {}
        for trunk, some, local in self._prompts():
            part = trunk if len(local) == len(trunk) else trunk.select(local)
            x = self.vlm.site_output(part, site) if read.output else self.vlm.site_input(part, site)
            pooled = read.pool(x, part.encoded)
            places = local if len(local) == len(trunk) else range(len(local))
            found |= {row: pooled[i] for row, i in zip(some, places, strict=True)}
        return torch.stack([found[row] for row in range(len(self))])

    def _prompts(self) -> Iterator[tuple[Trunk, list[int], list[int]]]:
        """(trunk, rows, the row of the trunk that each is) that together hold every row's prompt once."""
        rest = [row for row in range(len(self)) if row not in self.targets]
        for kind, rows in ((self.targets, self.targets.rows()), (self.sames, rest)):
            yield from kind.batches(rows)

    def _read_full(self, site: Site, tokens: str) -> Tensor:
        self.lower(site.layer)
        found: dict[int, Tensor] = {}
        from_targets = [row for row in range(len(self)) if row in self.targets]
        rest = [row for row in range(len(self)) if row not in self.targets]
        for kind, rows in ((self.targets, from_targets), (self.sames, rest)):
            for trunk, some, local in kind.batches(rows):
                part = trunk if len(local) == len(trunk) else trunk.select(local)
                places = local if len(local) == len(trunk) else range(len(local))
                keys = self._pooled(part, site, tokens)
                found |= {row: keys[place] for row, place in zip(some, places, strict=True)}
        return torch.stack([found[row] for row in range(len(self))])

    def _read_questions(self, site: Site, tokens: str) -> Tensor:
        """Keys of the questions without their pictures; each wording is run once."""
        questions = list(dict.fromkeys(one.probe.question for one in self.asked))
        found: dict[str, Tensor] = {}
        for start in range(0, len(questions), BATCH):
            some = questions[start : start + BATCH]
            trunk = self.vlm.trunk(self.vlm.encode([None] * len(some), some), site.layer)
            found |= dict(zip(some, self._pooled(trunk, site, tokens), strict=True))
        return torch.stack([found[one.probe.question] for one in self.asked])

    def _pooled(self, trunk: Trunk, site: Site, tokens: str) -> Tensor:
        return pool(self.vlm.site_input(trunk, site), trunk.encoded, tokens)


def _without_pictures(encoded: Encoded) -> Encoded:
    """What the part above the trunk reads; the pixels are below it."""
    inputs = {name: value for name, value in encoded.model_inputs.items() if name not in encoded.picture_sizes}
    return replace(encoded, model_inputs=inputs, picture_sizes={}, pictures={})


def _identity(image: object) -> Any:
    """Equal for pictures that are the same; for those that cannot tell (opened ones), for the same object."""
    try:
        hash(image)
    except TypeError:
        return id(image)
    return image
