"""`decode`: an encoded batch of prompts through Hugging Face's `generate`, with any decoding strategy that it knows.

Beams, sampling, no cache, static cache, prefill in chunks, prompt lookup and an assistant model all work on token ids: they
cut the prompt into pieces, repeat its rows, or look into it for what may come next.  Models that are one Hugging Face class
take ids and pictures alike.  BLIP-2 and its kin give their language model embedded prompts instead, which `generate` can
neither cut (every chunk would be the whole prompt), nor run without a cache, nor look into.  For these the language model is
called with ids, and `prompt_embedded` puts the pictures in wherever a piece of the prompt passes by.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteriaList

from ..errors import InputError
from . import generation
from .encoded import Encoded
from .exact import exact_convolutions
from .hooks import prompt_embedded
from .places import is_recurrent
from .surroundings import on_cpu_unless_named

if TYPE_CHECKING:
    from .base import VLM

_LENGTHS = ("max_new_tokens", "max_length", "generation_config")
_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens")


@on_cpu_unless_named
def decode(vlm: VLM, encoded: Encoded, **settings: Any) -> Any:
    """What `generate` gives for a batch of prompts: token ids (B', ·), prompt and answer, left-padded as the prompts are.

    The model's own generation settings apply, as with `generate`; answers end as `VLM.answer`'s do.

    Args:
        encoded: prompts without answers.
        settings: as for Hugging Face's `generate`; `assistant_model` may also be a `VLM`.  Without a length, answers are
            cut after `vlm.max_answer_tokens`.  `prefill_chunk_size` is ignored with a warning by models that read prompts
            in both directions (Gemma 3, PaliGemma).

    Raises:
        InputError: the batch holds answers; or several rows with assisted decoding, which takes one at a time,
            and not every model.
    """
    if bool(encoded.answer_mask.any()):
        raise InputError("answers: prompts that hold the answer cannot be answered; encode without answers.")
    for name in _ASSISTED:
        if settings.get(name) is not None and len(encoded) > 1:
            raise InputError(f"{name}: assisted decoding takes one row at a time; {len(encoded)} were given.")
        if settings.get(name) is not None and (why := no_drafts(vlm)):
            raise InputError(f"{name}: {why}; transformers does no assisted decoding with them. Leave it out.")
    if (assistant := settings.get("assistant_model")) is not None:
        settings["assistant_model"] = getattr(getattr(assistant, "anatomy", None), "causal", assistant)
    inputs = {name: value for name, value in encoded.model_inputs.items() if name != "position_ids"}
    both_ways = "token_type_ids" in inputs
    if (both_ways or vlm.family.whole_prompts) and settings.get("prefill_chunk_size") is not None:
        why = "are read in both directions, which pieces of them cannot be" if both_ways else "cannot be read in pieces"
        warnings.warn(
            f"prefill_chunk_size: prompts of {vlm.family.title} {why}; the prompt is read in one piece.", stacklevel=2
        )
        del settings["prefill_chunk_size"]
    causal: Any = vlm.anatomy.causal
    with vlm.lock, torch.inference_mode(), exact_convolutions(vlm.device):
        if causal is vlm.model and vlm.family.embedded is None:
            embedded = vlm.family.decoding(causal, encoded) if vlm.family.decoding else nullcontext()
        else:
            own = vlm.family.embedded
            prompts = own(causal, encoded) if own else vlm.language_inputs(encoded)["inputs_embeds"]
            embedded = prompt_embedded(causal, vlm.model.get_input_embeddings(), prompts)
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with embedded:
            return causal.generate(**inputs, **_completed(vlm, encoded, settings))


def no_drafts(vlm: VLM) -> str:
    """Why there is no assisted decoding with a model; "" where there is."""
    if any(is_recurrent(layer) for layer in vlm.layers):
        return f"some layers of {vlm.family.title} carry a state along the row, from which a draft cannot be taken back"
    return "" if vlm.family.drafts else f"the models of {vlm.family.title} cannot check a draft against a picture"


def _completed(vlm: VLM, encoded: Encoded, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the ends of answers that the family knows of."""
    prompter = vlm._prompter
    own: dict[str, Any] = {
        "eos_token_id": prompter.end_ids,
        "pad_token_id": generation.pad_id(vlm.tokenizer, prompter.end_ids),
    }
    if settings.get("stop_strings") is not None or getattr(settings.get("generation_config"), "stop_strings", None):
        own["tokenizer"] = vlm.tokenizer
    if vlm.image_token_id < vlm.vocabulary:  # Llama 3.2's cannot be said
        # a placeholder that is generated, or proposed by an assistant, would be taken for one more picture
        own["suppress_tokens"] = [vlm.image_token_id]
    if not any(settings.get(name) is not None for name in _LENGTHS):
        own["max_new_tokens"] = vlm.max_answer_tokens
    if prompter.family.end_of_answer:
        criteria = [
            *(settings.get("stopping_criteria") or []),
            generation.TextEnd(prompter, encoded.input_ids.shape[1]),
        ]
        settings = {**settings, "stopping_criteria": StoppingCriteriaList(criteria)}
    # a compiled forward pass keeps the hooks that it was compiled with, and takes no notice of later ones
    return {**own, **settings, "disable_compile": True}
