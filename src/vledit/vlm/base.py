"""`VLM`: the frozen vision-language model on which everything else is based; encode → trunk → head, and `answer`.

    encoded = vlm.encode([picture, None], ["What is it?", "What is the capital of Peru?"], ["a cat", "Lima"])
    trunk = vlm.trunk(encoded, site.layer)              # the frozen part, once
    logits = vlm.head(trunk, site, [change, None], positions=encoded.predict_mask)

The model's weights are never written to.  A model object runs one request at a time; others wait (`vlm.lock`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import copies
from ..errors import InputError
from ..quantization import unpack_ahead
from . import generation, measures
from .anatomy import dissect, module_at
from .encoded import Encoded, Trunk, left_padded
from .exact import exact_convolutions
from .families import Family
from .fingerprint import fingerprint
from .hooks import Transformation, Transforms, as_rows, transformed
from .picture_inputs import PictureInputs, joined, own_size, read_row
from .pictures import open_picture
from .prompts import Prompt, Prompter
from .running import Running
from .site import ROLES, Site
from .surroundings import lasting, made_ordinary, on_cpu_unless_named
from .verify import Verified, score

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ROLES", "VLM", "Encoded", "Site", "Transformation", "Transforms", "Trunk", "Verified", "transformed"]


class VLM(Running):
    """A loaded vision-language model.

    Args:
        model: the Hugging Face model; switched to eval, its parameters frozen.
        processor: its processor (`.image_processor`, `.tokenizer`).
        family: what is known about its kind (`registry.family_of(model.config)`).
        name: for reports.
        max_answer_tokens: longer answers (end token included) are refused, and greedy answers are cut there.

    Attributes:
        loaded_by: the arguments of `loading.load_vlm` that gave this model; None where it was made in another way.
        batch_tokens: how many tokens go through the trunk together where many prompts are run (`forest`); a GPU takes more.

    Raises:
        InputError: processor and model do not fit together.
    """

    batch_tokens: int = 1024
    loaded_by: dict[str, Any] | None = None

    def __init__(
        self, model: nn.Module, processor: Any, family: Family, name: str | None = None, max_answer_tokens: int = 64
    ) -> None:
        model = made_ordinary(measures.bare(model))
        unpack_ahead(model)
        self.model: Any = model.eval().requires_grad_(False)
        self.processor = processor
        self.family = family = family.complete(model, processor) if family.complete else family
        self.name = name or family.name
        self.max_answer_tokens = max_answer_tokens
        self.lock = threading.RLock()
        self._site_shapes: dict[Site, tuple[int, int]] = {}
        self.anatomy = dissect(model)
        self.default_site = measures.default_among(self.layers, family.default_site)
        self.default_alpha = family.default_alpha
        self._prompter = Prompter(
            family,
            processor.tokenizer,
            image_token_id=self.image_token_id,
            end_ids=generation.end_ids(self.model, self.anatomy.causal, processor.tokenizer, family.end_token),
            max_prompt_tokens=self._max_prompt_tokens(),
            max_answer_tokens=max_answer_tokens,
        )

    # --- what it is ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"VLM({self.name!r}, {self.family.title}, {self.n_layers} layers, {self.dtype}, {self.device})"

    def __copy__(self) -> VLM:
        return copies.shallow_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> VLM:
        with self.lock:
            made = VLM(deepcopy(self.model, memo), self.processor, self.family, self.name, self.max_answer_tokens)
        made.batch_tokens, made.loaded_by = self.batch_tokens, self.loaded_by
        return made

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return copies.packed_model(self)

    @property
    def dtype(self) -> torch.dtype:
        return measures.home(self.model.get_input_embeddings(), self.anatomy.lm_head, self.model, wide=True).dtype

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        config = self.model.config
        token = getattr(config, "image_token_id", None)
        return token if token is not None else config.image_token_index

    @property
    def vocabulary(self) -> int:
        """How many tokens the model can say; read off the settings where the projection's weight is packed."""
        weight: Any = getattr(self.anatomy.lm_head, "weight", None)
        settings: Any = self.anatomy.decoder.config
        return len(weight) if isinstance(weight, Tensor) else int(settings.vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of class, configuration and weights; the same for every dtype the same weights are loaded in."""
        return on_cpu_unless_named(fingerprint)(self.model)

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the model's own input."""
        return own_size(self.family, self.processor, self.model.config)

    def black(self, like: object | None = None) -> Image:
        """A black picture of the model's own input size, or of the size of the picture `like`."""
        from PIL import Image as pil

        return pil.new("RGB", self.image_size if like is None else open_picture(like).size)

    def _max_prompt_tokens(self) -> int | None:
        limit = getattr(self.anatomy.decoder.config, "max_position_embeddings", None)
        return None if limit is None else limit - self.max_answer_tokens

    @lasting
    def site_shape(self, site: Site | str) -> tuple[int, int]:
        """(out, in): how many numbers leave the site and enter it, at every token.

        A plain linear says so itself; for everything else a short question is run through the model once.
        """
        site = self.resolve_site(site)
        if site not in self._site_shapes:
            self._site_shapes[site] = measures.shape_of(self, self.encode, site)
        return self._site_shapes[site]

    def site_weight(self, site: Site | str) -> Tensor:
        """(out, in): the weight of a site that is a plain linear, for what adds to it.

        Raises:
            InputError: there is no such weight, and why: a block, a packed or an adapted linear.
        """
        return measures.weight_of(self, self.resolve_site(site))

    def vision_linears(self) -> dict[str, nn.Linear]:
        """The linears on the vision side that `ft_v` trains, by their path below the Hugging Face model.

        Raises:
            InputError: the family names none, or the model does not have them.
        """
        found = {path: module_at(self.model, path) for path in self.family.vision_sites}
        linears = {path: module for path, module in found.items() if isinstance(module, nn.Linear)}
        if not found or len(linears) < len(found):
            raise InputError(f"family '{self.family.name}' names no linear layers on the vision side of this model.")
        return linears

    # --- prompts ------------------------------------------------------------------------------------------------

    @lasting
    def prompt(self, question: str, with_image: bool = True) -> Prompt:
        """The tokenised prompt of one question; where the number of visual tokens depends on the picture, with those of
        a black picture of the model's own input size."""
        return self._prompter.prompt(question, self.usual_placeholders if with_image else ())

    @cached_property
    def usual_placeholders(self) -> tuple[str, ...]:
        return self.read_pictures(self.black(), "what?").placeholders

    def answer_tokens(self, question: str, answer: str, with_image: bool = True) -> list[int]:
        """The tokens that teacher forcing puts after the prompt: the answer, tokenised in context, and its end.

        Raises:
            InputError: empty or over-long answer.
        """
        return self._prompter.answer(self.prompt(question, with_image), answer)

    @lasting
    def read_pictures(self, image: object, question: str) -> PictureInputs:
        """What the model takes of one row's pictures.

        Args:
            image: a picture (anything `open_picture` takes), a list of pictures, or None.

        Raises:
            PictureError: an unreadable picture.
        """
        images = image if isinstance(image, list | tuple) else [] if image is None else [image]
        pictures = [open_picture(one) for one in images]
        return read_row(self.family, self.processor, self.model.config, pictures, question)

    @lasting
    def encode(
        self,
        images: Sequence[object],
        questions: Sequence[str],
        answers: Sequence[str | None] | None = None,
        soft: Sequence[Tensor | None] | None = None,
    ) -> Encoded:
        """A batch of prompts, left-padded; with teacher-forced answers where `answers` are given.

        Args:
            images: per row a picture (anything `open_picture` takes), a list of pictures, or None for a question without
                a picture.
            answers: per row the answer that is forced, or None for the prompt alone.
            soft: per row embeddings (n, E) that stand before the question, or None; see `acting.soft_prompts`.

        Raises:
            InputError: unequal lengths, an empty batch, an unfit question or answer.
            PictureError: an unreadable picture.
        """
        images, questions = list(images), list(questions)
        if not questions or len(images) != len(questions) or (answers is not None and len(answers) != len(questions)):
            given = f"{len(images)} images, {len(questions)} questions" + (
                f", {len(answers)} answers" if answers else ""
            )
            raise InputError(f"images, questions and answers must be equally many and at least one; got {given}.")
        pictures = [self.read_pictures(image, q) for image, q in zip(images, questions, strict=True)]
        prompts = [self._prompter.prompt(q, p.placeholders) for q, p in zip(questions, pictures, strict=True)]
        if soft is not None:
            filler = generation.pad_id(self.tokenizer, self._prompter.end_ids)
            put = zip(prompts, soft, strict=True)
            prompts = [prompt if some is None else prompt.with_soft(len(some), filler) for prompt, some in put]
        suffixes = (
            [[]] * len(prompts)
            if answers is None
            else [[] if a is None else self._prompter.answer(p, a) for p, a in zip(prompts, answers, strict=True)]
        )
        encoded = self.assemble(prompts, suffixes, pictures)
        if encoded.soft_mask is not None:
            encoded.soft = torch.cat([some.to(self.device) for some in soft or () if some is not None and len(some)])
        return encoded

    @lasting
    def assemble(
        self, prompts: Sequence[Prompt], suffixes: Sequence[Sequence[int]], pictures: Sequence[PictureInputs]
    ) -> Encoded:
        """A batch of what is tokenised and read already: per row the prompt, the tokens after it, its pictures."""
        padding = generation.pad_id(self.tokenizer, self._prompter.end_ids)
        encoded = left_padded(prompts, suffixes, padding, self.device)
        tensors, encoded.picture_sizes = joined(pictures)
        for name, value in tensors.items():
            encoded.model_inputs[name] = value.to(self.device, self.dtype if value.is_floating_point() else None)
        if self.family.joined is not None and tensors:
            encoded.joined, encoded.pictures = (
                self.family.joined,
                {name: encoded.model_inputs[name] for name in tensors},
            )
            encoded.model_inputs |= self.family.joined(encoded.pictures)
        if self.family.text_inputs is not None:
            encoded.model_inputs |= self.family.text_inputs(self.model, encoded)
        return encoded

    def batches(self, items: Sequence[Any], batch_size: int = 8) -> Iterator[list[int]]:
        """Yields lists of indices into `items`, rows of similar length together, so that little is padding.

        Args:
            items: things with `.question` and `.image` (requests, probes).
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give at least 1.")
        lengths = [len(self.prompt(item.question, item.image is not None).ids) for item in items]
        order = sorted(range(len(items)), key=lambda i: lengths[i])
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    # --- answers ------------------------------------------------------------------------------------------------

    @on_cpu_unless_named
    def verify(self, batch: Encoded | Trunk, site: Site | str | None = None, transforms: Transforms = None) -> Verified:
        """One teacher-forced pass over prompt + answer + EOS: would greedy decoding give exactly this answer?

        Args:
            batch: encoded with answers; or its trunk, at or below the site, where that is there already.

        Raises:
            InputError: the batch was encoded without answers.
        """
        encoded = batch.encoded if isinstance(batch, Trunk) else batch
        if not bool(encoded.answer_mask.any(1).all()):
            raise InputError("answers: the batch was encoded without answers; there is nothing to verify.")
        site = self.default_site if site is None else self.resolve_site(site)
        with torch.inference_mode():
            trunk = batch if isinstance(batch, Trunk) else self.trunk(batch, site.layer)
            return score(self.head(trunk, site, transforms, positions=encoded.predict_mask), encoded)

    @on_cpu_unless_named
    def answer(
        self,
        images: Sequence[object],
        questions: Sequence[str],
        max_new_tokens: int | None = None,
        transforms: Transforms = None,
        site: Site | str | None = None,
    ) -> list[str]:
        """Greedy answers, without special tokens and outer blanks.

        Args:
            max_new_tokens: cut there (default: `max_answer_tokens`).
            transforms: per row what acts at `site`, decided by the caller on the prompt; kept for the whole answer.
        """
        return self.answer_encoded(self.encode(images, questions), max_new_tokens, transforms, site)

    @on_cpu_unless_named
    def answer_encoded(
        self,
        encoded: Encoded,
        max_new_tokens: int | None = None,
        transforms: Transforms = None,
        site: Site | str | None = None,
    ) -> list[str]:
        """`answer` for prompts that are encoded already (without answers)."""
        if bool(encoded.answer_mask.any()):
            raise InputError("answers: prompts that hold the answer cannot be answered; encode without answers.")
        site = self.default_site if site is None else self.resolve_site(site)
        acting = transformed(self, site, as_rows(transforms, len(encoded)))
        with acting, torch.inference_mode(), exact_convolutions(self.device):
            inputs = self.language_inputs(encoded)
            limit = self.max_answer_tokens if max_new_tokens is None else max_new_tokens
            rows = generation.greedy(self.anatomy.causal, inputs, self._prompter, limit)
        return [self._prompter.text(ids) for ids in rows]
