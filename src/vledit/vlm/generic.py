"""The family for models that no other family covers, based on their processor and configuration.

It works for models of the common design: a Hugging Face class for image-text-to-text whose processor writes a picture as
placeholders (`replace_image_token`) and whose decoder is called with the visual tokens in their place.  Anything else that a
model may need is not known here; the warning says what was assumed.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .chat import answer_prefix, chat_prompts
from .families import Family
from .picture_inputs import writes_pictures
from .processors import load_any
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

_PLAIN = ("{image}\n{question}\n", "{question}\n")


def complete(model: Any, processor: Any) -> Family:
    """The generic family for one model; warns of what was assumed.

    Raises:
        InputError: the processor has no tokenizer or image processor, or the model names no image token.
    """
    kind = type(model).__name__
    missing = [part for part in ("tokenizer", "image_processor") if not hasattr(processor, part)]
    missing += [] if writes_pictures(processor) else ["replace_image_token"]
    token = _image_token(model.config, processor)
    if missing or token is None:
        raise InputError(
            f"no family covers {kind}, and the generic one cannot: its processor has no "
            f"{', '.join(missing) or 'image token'}. Add a family through the entry point group 'vledit.families'."
        )
    prompts = chat_prompts(processor, token)
    prompt, text_prompt = prompts or _PLAIN
    found = replace(
        GENERIC,
        title=f"generic ({kind})",
        prompt=prompt,
        text_prompt=text_prompt,
        image_token=token,
        answer_prefix=answer_prefix(prompt),
        text_inputs=_text_inputs(model, processor),
        complete=None,
    )
    source = "from the processor's chat template" if prompts else "a guess: the processor has no usable chat template"
    warnings.warn(
        f"no family covers {kind}; the generic one is used. Assumed: prompt {prompt!r} ({source}); a picture is written "
        f"as the processor's replace_image_token says, visual tokens are '{token}'; an answer follows "
        f"{found.answer_prefix!r}; site {GENERIC.default_site} and α {GENERIC.default_alpha}, chosen for no such model. "
        "Compare its answers with the model's own before you trust its edits.",
        stacklevel=2,
    )
    return found


def _image_token(config: Any, processor: Any) -> str | None:
    number = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if number is None or not hasattr(processor, "tokenizer"):
        return None
    return processor.tokenizer.convert_ids_to_tokens(number)


def _text_inputs(model: Any, processor: Any) -> Any:
    """Token types and positions, where processor and model show that they know of them."""
    if getattr(processor, "return_mm_token_type_ids", False):
        if hasattr(getattr(model, "model", None), "get_rope_index"):
            from .qwen2_vl import text_inputs

            return text_inputs
        return _mm_token_types
    return _token_types if "token_type_ids" in processor.model_input_names else None


def _mm_token_types(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    return {"mm_token_type_ids": encoded.visual_mask.long()}


def _token_types(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    return {"token_type_ids": encoded.visual_mask.long()}


GENERIC = Family(
    name="generic",
    title="generic",
    model_types=(),
    model_class="transformers:AutoModelForImageTextToText",
    prompt=_PLAIN[0],
    text_prompt=_PLAIN[1],
    image_token="<image>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    load_processor=load_any,
    complete=complete,
)
