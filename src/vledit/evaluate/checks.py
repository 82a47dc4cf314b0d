"""Checks that a figure measures what it claims: the base was unchanged, and routing saw the prompt alone.

They are run by `prepare` and by the protocols, not only by the tests: a mistake in a later editor must not go unnoticed.
(EasyEdit issues 643, 659: base and edited model were one object, so that locality compared a model with itself; issues 215,
404, 604: the answer was part of the prompt that was scored.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..codebook import Query
from ..editors.answering import pool
from ..errors import CheckFailedError, InputError
from ..vlm.base import VLM, Encoded
from .manifest import weights_hash

if TYPE_CHECKING:
    from .prepared import PreparedCase

QUESTION = "What is shown in the picture?"
TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}
LOOSE = 5e-2
"""Relative distance of a key from the same key read in another batch, for float32 and for shorter dtypes."""

_RECORDING = "transformers.utils.output_capturing"
"""Where transformers' hooks come from that it puts on some models when they run first, to record what layers give."""
_FAMILIES = ("vledit.vlm.mllama", "vledit.pocket.modeling")
"""Families whose models have hooks of their own: to know what a prompt without a picture is, to lay out what is multiplied."""


class BaseChangedError(CheckFailedError):
    """The model is not the base: something acts on it, or its weights were written to."""


class LeakError(InputError):
    """A probe shows the answer that it asks for."""


class BaseGuard:
    """Tells whether a model is still the base that it was when the guard was made.

    `look` is cheap enough for every edit: no hook has come onto any module, and no parameter has been replaced or written to
    (PyTorch counts writes).  `check`, meant for every case, also runs two stored probes, which must give the same bits: what a
    picture of noise is to the language model, and the logits after a short question.  They see what a write behind PyTorch's back
    changed on their way through the model. `check_weights` reads all weights and is meant for the start and the end of a run.
    """

    def __init__(self, vlm: VLM, weights: str = ""):
        """`weights`: their hash where it is known; read when it is first needed otherwise."""
        self.vlm = vlm
        self._weights = weights
        self._hooks = _hooks(vlm.model)
        if acting := [name for name, kinds in self._hooks.items() if kinds]:
            raise BaseChangedError(
                f"base: a hook is on {acting[0]} already ({len(acting)} modules); base answers have to be computed before "
                "anything acts on the model."
            )
        self._state = _state(vlm.model)
        # picture and text apart: what costs time is the language model, which reads a few words sooner than a picture
        self._seen, self._asked = vlm.encode([_noise(vlm)], [QUESTION]), vlm.encode([None], [QUESTION])
        self._found = self._run()

    @property
    def weights(self) -> str:
        """SHA-256 of the weights when the guard was made."""
        self._weights = self._weights or weights_hash(self.vlm.model)
        return self._weights

    def look(self) -> None:
        """Runs nothing.  Raises: BaseChangedError where hooks or parameters are others."""
        hooks = _hooks(self.vlm.model)
        if hooks != self._hooks:
            changed = next(name for name in {*hooks, *self._hooks} if hooks.get(name) != self._hooks.get(name))
            raise BaseChangedError(
                f"base: a hook is on {changed or 'the model'}; an edit acts where the base is asked."
            )
        state = _state(self.vlm.model)
        if state != self._state:
            changed = [name for name in {*state, *self._state} if state.get(name) != self._state.get(name)]
            if not self._weights or weights_hash(self.vlm.model) != self._weights:
                raise BaseChangedError(
                    f"base: the weights of {sorted(changed)[0]} ({len(changed)} tensors) were written to; edits have to leave "
                    "the base alone, or everything after them is scored on another model."
                )
            self._state = state  # written to, and put back bit for bit

    def check(self) -> None:
        """As `look`, and runs the stored probes.  Raises: BaseChangedError."""
        self.look()
        for name, found, first in zip(("picture", "question"), self._run(), self._found, strict=True):
            if not torch.equal(found, first):
                raise BaseChangedError(
                    f"base: the stored {name} gives other numbers than it did at the start; the model changed."
                )

    def check_weights(self) -> None:
        """Reads all weights.  Raises: BaseChangedError where a bit of them changed."""
        if weights_hash(self.vlm.model) != self.weights:
            raise BaseChangedError("base: the weights are not those of the start; edits have to leave the base alone.")

    def _run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the language model of the picture, (1, T, H), and the logits after the question, (1, V)."""
        vlm, asked = self.vlm, self._asked
        with torch.inference_mode():
            return vlm.trunk(self._seen, 0).hidden, vlm.head(vlm.trunk(asked, 0), positions=asked.last_prompt_mask)


def _of_the_model(module: str) -> bool:
    """Whether hooks defined there belong to the model itself: transformers', which record outputs, and a family's own."""
    return module == _RECORDING or module in _FAMILIES


def _hooks(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name → ids of its hooks, for modules that have some; transformers' own, which record outputs, do not count."""
    found = {}
    for name, module in model.named_modules():
        all_hooks = (*module._forward_hooks.items(), *module._forward_pre_hooks.items())
        hooks = tuple(id for id, hook in all_hooks if not _of_the_model(getattr(hook, "__module__", None) or ""))
        if hooks:
            found[name] = hooks
    return found


def _state(model: torch.nn.Module) -> dict[str, tuple[int, int, int]]:
    """Parameter name → which object it is, where its numbers are, how often they were written to."""
    return {
        name: (id(parameter), parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for name, parameter in model.named_parameters()
    }


def _noise(vlm: VLM) -> Any:
    from PIL import Image

    width, height = vlm.image_size
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def check_questions(prepared: PreparedCase) -> None:
    """No question ends with the answer that it asks for, as a prompt with the answer forced into it would.

    Raises: LeakError, naming the probe.
    """
    for one in prepared.asked:
        words = _words(one.target)
        if words and _words(one.probe.question)[-len(words) :] == words and not _asks(one.probe.question):
            raise LeakError(
                f"{one.family}/{one.cell}[{one.index}]: the question {one.probe.question!r} ends with the answer {one.target!r}; "
                "the prompt must not hold what is asked for."
            )


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _asks(question: str) -> bool:
    """ "… a cat or a dog?" may end with the answer; "… in the picture? a dog" may not."""
    return question.rstrip().endswith(("?", ":", "？"))


def check_prompt_mask(vlm: VLM, encoded: Encoded, questions: list[str], has_image: list[bool]) -> None:
    """The tokens that count as prompt end where the prompt alone ends.

    What follows the picture is compared (all of it where there is none): how many tokens stand for a picture may depend on it.

    Raises: CheckFailedError.
    """
    for row, (question, image) in enumerate(zip(questions, has_image, strict=True)):
        own = vlm.prompt(question, image)
        last_visual = max((place for place, visual in enumerate(own.visual) if visual), default=-1)
        ending = own.ids[last_visual + 1 :]
        routed = encoded.input_ids[row][encoded.prompt_mask[row]].tolist()
        if routed[-len(ending) :] != ending or (not image and len(routed) != len(ending)):
            raise CheckFailedError(
                f"routing: what counts as the prompt of {question!r} does not end where that prompt ends; is the answer in it?"
            )


def check_routed_prompts(prepared: PreparedCase) -> None:
    """The prompts that keys are read from hold no answer.  Raises: CheckFailedError."""
    for trunk, some, local in _batches(prepared):
        asked = [prepared.asked[row] for row in some]
        check_prompt_mask(
            prepared.vlm,
            trunk.encoded.select(local),
            [one.probe.question for one in asked],
            [one.probe.image is not None for one in asked],
        )


def check_routed_key(prepared: PreparedCase, query: Query) -> None:
    """The key that a router is given is the one that a request brings, which has no answer yet.

    One probe of the case, drawn by its id, is encoded again without any answer and its key compared, once per case: keys are
    read once and shared by all editors.  That also tells whether trunks that were kept on disk are this model's.

    Raises: CheckFailedError.
    """
    if query.prompt != "full" or query in prepared.checked:
        return
    vlm = prepared.vlm
    row = int(hashlib.sha256(prepared.case.id.encode()).hexdigest(), 16) % len(prepared)
    site = vlm.resolve_site(query.site)
    encoded = vlm.encode([prepared.picture(row)], [prepared.asked[row].probe.question])
    tokens = "mean" if query.key_tokens == "prompt+answer" else query.key_tokens
    alone = pool(vlm.site_input(vlm.trunk(encoded, site.layer), site), encoded, tokens)[0]
    given = prepared.keys(query)[row]
    away = float((given - alone).norm() / alone.norm().clamp(min=1e-12))
    without = bool(alone.isnan().all()) and bool(given.isnan().all())
    if not without and not away <= TOLERANCE.get(vlm.dtype, LOOSE):
        raise CheckFailedError(
            f"routing: the key of probe {row} of '{prepared.case.id}' is {away:.3g} (relative) away from that of its prompt "
            "alone; keys have to be read from the prompt, without the answer."
        )
    prepared.checked.add(query)


def _batches(prepared: PreparedCase) -> Iterator[tuple[Any, list[int], list[int]]]:
    for kind in (prepared.targets, prepared.sames):
        yield from kind.batches(kind.rows())
