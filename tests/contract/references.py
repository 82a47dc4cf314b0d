"""The slow references of the contract: what an edit stands for, done to a copy of the base by hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from vledit.editors.base import Edit
from vledit.editors.edited_model import EditedModel
from vledit.editors.fitting import as_full
from vledit.vlm import VLM
from vledit.vlm.acting import VISION
from vledit.vlm.decoding import decode
from vledit.vlm.hooks import site_changed
from vledit.vlm.places import BLOCKS
from vledit.vlm.site import BLOCK

from .rows import REQUEST, Made, copied, made


@cache
def reference(family: str, name: str) -> Any:
    """The slow reference, on a copy of the base: weights that really are those that the edit stands for, a prompt that really is
    longer, an output that a hook by hand replaces."""
    one = made(family, name)
    vlm = copied(one.vlm)
    if one.edit.payload is not None:
        if one.edit.editor == "lemoe":
            return ExpertByHand(vlm, one.edit)
        if one.edit.editor == "liveedit":
            return WeighedExpertByHand(vlm, one)
        if one.soft is not None:
            return SoftByHand(vlm, one)
        if "before" not in one.edit.payload.meta:
            return ByHand(vlm, one.edit)
        (effect,) = one.model().effects([REQUEST.image], [REQUEST.question])
        weigh(vlm, effect.changes)
        return LongerPrompts(vlm, one)
    if any(change.kind == "neurons" for change in (one.edit.weights or {}).values()):
        return NeuronsByHand(vlm, one.edit)
    changes = one.edit.weights or {one.edit.entry.site: one.edit.entry.transformation}  # type: ignore[union-attr]
    weigh(vlm, changes)
    return EditedModel(vlm)


def weigh(vlm: VLM, changes: Mapping[str, Any]) -> None:
    """Adds these changes to the weights of a copy."""
    with torch.no_grad():
        for point, change in changes.items():
            delta = as_full(change).weight_delta
            if point.startswith(VISION):
                vlm.vision_linears()[point.removeprefix(VISION)].weight.add_(delta)
            elif (site := vlm.resolve_site(point)).role == BLOCK:
                layer = vlm.layers[site.layer]
                block = next(block for block in BLOCKS if hasattr(layer, block))
                setattr(layer, block, Beside(getattr(layer, block), delta))
            else:
                place = vlm.site_place(site)
                weight: Any = place.exit.weight
                (weight if place.half is None else weight.chunk(2)[place.half]).add_(delta)


class LongerPrompts:
    """The base, asked with what an edit puts before every question."""

    def __init__(self, vlm: VLM, one: Made):
        self.base, self.one = EditedModel(vlm), one

    def generate(self, images: Any, questions: Any, **settings: Any) -> Any:
        return self.base.generate(images, [self.one.read(question) for question in questions], **settings)

    def answer(self, image: Any, question: str, most: int) -> Any:
        return self.base.answer(image, self.one.read(question), most)


class BesideByHand:
    """The base with something put beside a block by hand, for every row."""

    def __init__(self, vlm: VLM, edit: Edit):
        self.base, self.edit = EditedModel(vlm), edit

    def site(self) -> str:
        raise NotImplementedError

    def put(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _acting(self) -> Any:
        return site_changed(self.base.vlm, self.base.vlm.resolve_site(self.site()), self.put)

    def generate(self, images: Any, questions: Any, **settings: Any) -> Any:
        with self._acting():
            return self.base.generate(images, questions, **settings)

    def answer(self, image: Any, question: str, most: int) -> Any:
        with self._acting():
            return self.base.answer(image, question, most)


class ExpertByHand(BesideByHand):
    """One expert, its two matrices multiplied out."""

    def site(self) -> str:
        return str(self.edit.payload.meta["site"])  # type: ignore[union-attr]

    def put(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        held = self.edit.payload.tensors  # type: ignore[union-attr]
        first, second = held["widen"] @ held["read"].T, held["write"] @ held["narrow"].T
        return y + (torch.relu(x.to(first) @ first.T) @ second.T).to(y)


class WeighedExpertByHand:
    """LiveEdit's expert, token by token, with the weight that each row's own question gives it."""

    def __init__(self, vlm: VLM, one: Made):
        self.base, self.held = EditedModel(vlm), one.edit.payload
        self.memory: Any = one.model().memories["liveedit"]

    def weights(self, images: Any, questions: Any) -> torch.Tensor:
        """(B, 1, 1): sigmoid of the mean over the queries of what the question's features and the edit's have in common."""
        network, site = self.memory.fitted_network()
        vlm, own = self.base.vlm, self.held.tensors["psi"]
        encoded = vlm.encode(images, questions)
        tokens = vlm.site_output(vlm.trunk(encoded, vlm.resolve_site(site).layer), site)
        found = []
        for row, asked, seen in zip(tokens, encoded.question_mask, encoded.visual_mask, strict=True):
            psi = network.features(network.of_request, row, asked, seen).psi
            found.append(sum(float(a @ b) for a, b in zip(psi, own, strict=True)) / len(own) / own.shape[1] ** 0.5)
        return torch.tensor(found).sigmoid()[:, None, None]

    def generate(self, images: Any, questions: Any, **settings: Any) -> Any:
        vlm, weights = self.base.vlm, self.weights(images, questions)
        read, write = self.held.tensors["read"], self.held.tensors["write"]

        def put(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            h = y.to(read)
            normal = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            fired = torch.stack([(normal * neuron).sum(-1) for neuron in read], -1).clamp(min=0)
            return (h + weights.repeat_interleave(len(y) // len(weights), 0) * (fired @ write)).to(y)

        with site_changed(vlm, vlm.resolve_site(self.held.meta["site"]), put):
            return self.base.generate(images, questions, **settings)


class SoftByHand:
    """The base, for every row of whose prompts some words of its vocabulary that occur in none are embedded as the edit says.

    Nor may they occur in an answer: other words are taken until none does.
    """

    def __init__(self, vlm: VLM, one: Made):
        self.vlm, self.soft = vlm, one.soft

    def generate(self, images: Any, questions: Any, **settings: Any) -> Any:
        encoded = self.vlm.encode(images, questions, None, [self.soft] * len(images))
        marks = (*self.vlm.tokenizer.all_special_ids, *self.vlm.tokenizer.get_added_vocab().values())
        used = {*encoded.input_ids.flatten().tolist(), *marks}
        free = [word for word in range(len(self.vlm.tokenizer)) if word not in used]
        while len(free) >= len(self.soft):
            words = [free.pop() for _ in self.soft][::-1]
            found = self._with(words, images, questions, settings)
            tokens = found if torch.is_tensor(found) else found.sequences
            if not set(words) & set(tokens[:, -settings["max_new_tokens"] :].flatten().tolist()):
                return found
        raise AssertionError("every word of the vocabulary occurs in an answer")

    def _with(self, words: list[int], images: Any, questions: Any, settings: dict[str, Any]) -> Any:
        encoded = self.vlm.encode(images, questions, None, [self.soft] * len(images))
        encoded.input_ids[encoded.soft_mask] = torch.tensor(words * len(images))
        encoded.soft = encoded.soft_mask = None

        def put(_module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for word, value in zip(words, self.soft, strict=True):
                output[args[0] == word] = value.to(output)
            return output

        handle = self.vlm.model.get_input_embeddings().register_forward_hook(put)
        try:
            return decode(self.vlm, encoded, **settings)
        finally:
            handle.remove()


class NeuronsByHand(BesideByHand):
    """Neurons one after the other."""

    def site(self) -> str:
        return next(iter(self.edit.weights))  # type: ignore[arg-type]

    def put(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ((_, neurons),) = self.edit.weights.items()  # type: ignore[union-attr]
        for key, bias, value in zip(neurons.keys, neurons.biases, neurons.values, strict=True):
            y = y + torch.relu((x.to(key) * key).sum(-1, keepdim=True) + bias).mul(value).to(y)
        return y


class ByHand:
    """The base with the output of a site replaced at the last prompt token, for every row."""

    def __init__(self, vlm: VLM, edit: Edit):
        self.base, self.edit = EditedModel(vlm), edit

    def generate(self, images: Any, questions: Any, **settings: Any) -> Any:
        vlm, payload = self.base.vlm, self.edit.payload
        assert payload is not None
        last, seen = vlm.encode(images, questions).prompt_mask.shape[1] - 1, [0]

        def put(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            start = 0 if y.shape[1] > last else seen[0]  # without a cache every pass begins at the start
            if start <= last < start + y.shape[1]:
                y = y.clone()
                y[:, last - start] = payload.tensors["value"]
            seen[0] += y.shape[1]
            return y

        with site_changed(vlm, vlm.resolve_site(payload.meta["site"]), put):
            return self.base.generate(images, questions, **settings)


class Beside(torch.nn.Module):
    """An MLP block with a linear beside it; what else the block gives (what its router says) is handed on."""

    def __init__(self, block: torch.nn.Module, weight: torch.Tensor):
        super().__init__()
        self.block, self.weight = block, weight

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = self.block(x, *args, **kwargs)
        out = found[0] if isinstance(found, tuple) else found
        out = out + (x @ self.weight.T).reshape(out.shape)
        return (out, *found[1:]) if isinstance(found, tuple) else out
