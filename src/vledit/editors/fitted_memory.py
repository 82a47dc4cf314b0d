"""`FittedMemory`: edits in a memory, of which one is cited by parts that were fitted to the model beforehand.

The fitted parts are saved with the edits, so that a folder of edits makes the same decisions wherever it is opened.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..codebook.relation import Fact
from ..data.case import EditRequest
from ..vlm.pictures import picture_key
from .answering import forced_with
from .base import Edit, EditReport, Payload
from .effect import Effect, decided
from .features import Features
from .fitting import margins
from .making import new_id, opened
from .memory import Kept, Memory
from .training import artefact
from .training.artefact import Artefact
from .training.losses import answer_loss

if TYPE_CHECKING:
    from ..vlm.base import VLM


class FittedMemory(Memory):
    """Decides from question and picture, by a fitted part.

    A subclass says in `effect_of` what a cited edit does, and in `decide` which edit is cited.

    Args:
        settings: with "fitted", the folder of a fitting, or "" for the usual places.
    """

    when: ClassVar[str] = "request"

    def __init__(self, vlm: VLM, editor: str, settings: Mapping[str, Any] | None = None):
        super().__init__(vlm, editor, settings)
        self._part: Artefact | None = None
        self._features: Features | None = None
        self._keys: tuple[Tensor, Tensor] | None = None

    # --- what a method says ---------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Called when the fitted part was read."""

    def decide(self, questions: Tensor, pictures: Tensor) -> list[tuple[Kept | None, Effect]]:
        """Which edit is cited for each request, and an effect that holds the decision alone.

        Args:
            questions, pictures: (N, D) and (N, H), as `Features` gives them.
        """
        raise NotImplementedError

    def effect_of(self, one: Kept, effect: Effect, image: Any, question: str) -> Effect:
        """What a cited edit does to a request."""
        raise NotImplementedError

    # --- what is shared -------------------------------------------------------------------------------------------

    @property
    def part(self) -> Artefact:
        """What was fitted.  Raises: see `artefact.find`."""
        if self._part is None:
            self._take(artefact.find(self.editor, self.vlm, str(self.settings.get("fitted", ""))))
        assert self._part is not None
        return self._part

    def _take(self, part: Artefact) -> None:
        self._part, self._features = part, None
        self.opened()

    @property
    def features(self) -> Features:
        if self._features is None:
            self._features = Features(self.vlm, str(self.part.settings["encoder"]))
        return self._features

    def keys(self) -> tuple[Tensor, Tensor]:
        """(E, D) question vectors and (E, H) picture vectors of the active edits."""
        if self._keys is None:
            found = [one.payload.tensors for one in self.active()]
            self._keys = (
                torch.stack([one["question"].cpu() for one in found]),
                torch.stack([one["picture"].cpu() for one in found]),
            )
        return self._keys

    def changed(self) -> None:
        self._keys = None

    def request_effects(self, images: Sequence[Any], questions: Sequence[str]) -> list[Effect | None]:
        part = self.part
        assert part.editor == self.editor
        if not len(self):
            return [Effect(decided(None, "No edits: the base model answers.")) for _ in questions]
        with torch.inference_mode(False), torch.no_grad():
            found = self.decide(self.features.questions(questions), self.features.pictures(images))
            return [
                effect if one is None else self.effect_of(one, effect, image, question)
                for (one, effect), image, question in zip(found, images, questions, strict=True)
            ]

    def made(self, request: EditRequest, meta: Mapping[str, Any] | None = None) -> Edit:
        """The edit of a request: its vectors, what stands before its own question, and the settings it was made with; its report
        says what the model answers when the edit is cited."""
        began = time.perf_counter()
        request = opened(request)
        image = request.image
        self.vlm.answer_tokens(request.question, request.answer, image is not None)  # an unfit answer is told here
        id = request.id or self._free(new_id(request))
        key = None if image is None else picture_key(image)
        if (same := self.holding(Fact(request.question, request.answer, key, tuple(request.rephrases)))) is not None:
            report = EditReport.of_nothing(time.perf_counter() - began)
            return Edit(same.same or id, self.editor, request, report, relation=same)
        question, picture = self.features.questions([request.question]), self.features.pictures([image])
        tensors = {"question": question[0], "picture": picture[0]}
        edit = Edit(id, self.editor, request, EditReport.of_nothing(0.0), payload=Payload(tensors, dict(meta or {})))
        cited = self.effect_of(
            Kept(edit), Effect(decided(id, "It is the edit's own request.")), image, request.question
        )
        logits, encoded = forced_with(self.vlm, [cited], [image], [request.question], [request.answer])
        loss, margin = (
            float(answer_loss(logits, encoded.targets)),
            float(margins(logits.float(), encoded.targets).min()),
        )
        assert cited.insert is not None
        payload = Payload(tensors, {**(meta or {}), "before": cited.insert.before, "settings": dict(self.settings)})
        report = EditReport(time.perf_counter() - began, 0, loss, margin, payload.nbytes, margin > 0)
        return Edit(id, self.editor, request, report, payload=payload)

    def _free(self, stem: str) -> str:
        """The id, numbered where there is an edit of it that does not act any more."""
        numbers = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        return next(id for id in numbers if id not in self.kept)

    # --- keeping --------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if self._part is None and not self.kept:
            return {}, {}
        part = self.part
        record = {"settings": dict(part.settings), "about": dict(part.about), "sha256": part.sha256}
        return record, dict(part.tensors)

    def restore_state(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if not record:
            return
        held = {name: tensor.to(self.vlm.device) for name, tensor in tensors.items()}
        self._take(Artefact(Path(), self.editor, record["settings"], held, record["sha256"], record["about"]))
