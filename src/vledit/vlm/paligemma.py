"""PaliGemma and PaliGemma 2 (`PaliGemmaForConditionalGeneration`): SigLIP, one linear, Gemma or Gemma 2.

A prefix language model: the prompt (visual tokens, start token, question, line break) is seen in both directions, the answer
from left to right.  The model knows the two by `token_type_ids` (0: prompt, 1: answer) and without these is silently causal.
Positions count from 1.  PaliGemma 2 alternates between windowed and full attention, caps its logits, and norms the MLP's output
before it is added.

A prompt read in chunks cannot be seen in both directions: it is read in one piece.  What transformers 5.23 gets wrong when it
decodes, `decoding` puts right.

Prompt: the mix checkpoints' task for questions in English, `answer en` (big_vision's README); the `pt` checkpoints have to be
fine-tuned before they answer anything.  A question without a picture is no task that these models were trained on: the prompt
then is the same without the visual tokens.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .families import Family
from .published import COUNTED, Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

TEXT_PROMPT = "<bos>answer en {question}\n"  # the processor tells the tokenizer to put no start token of its own


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """Which tokens are the answer's, and the positions counted from 1; each (B, T) int64."""
    return {
        "token_type_ids": encoded.answer_mask.long(),
        "position_ids": encoded.model_inputs["position_ids"] + 1,
    }


def decoding(model: Any, encoded: Encoded) -> AbstractContextManager[None]:
    """Within the context, `generate` gives the model what it needs in every way of decoding.

    By itself it takes generated and proposed tokens for more of the prompt, which then sees them where it is read together
    with them (assisted, without a cache); and for a static cache it makes masks that PaliGemma 2's `forward` cannot take.
    """
    import torch

    from .hooks import called_with

    prompts = encoded.attention_mask

    def put_right(given: dict[str, Any]) -> dict[str, Any]:
        ids, past = given["input_ids"], given.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        end = start + ids.shape[1]
        types = (torch.arange(start, end, device=ids.device) >= prompts.shape[1]).long().expand(len(ids), -1)
        if isinstance(given.get("attention_mask"), dict):
            rows = prompts.repeat_interleave(len(ids) // len(prompts), 0)
            given["attention_mask"] = torch.cat([rows, rows.new_ones(len(ids), end - prompts.shape[1])], 1)
        return {**given, "token_type_ids": types}

    return called_with(model, put_right)


def capped(config: Any, logits: Tensor) -> Tensor:
    """PaliGemma 2: c·tanh(logits / c), as Gemma 2 has it; PaliGemma: the logits as they are."""
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("google/paligemma-3b-mix-224", 2_923_466_480, 2048, 16384, 18, 257216, 256,
              tied=True, linear=2_395_238_400, kv_width=256, source=COUNTED),
    Published("google/paligemma-3b-mix-448", 2_924_351_216, 2048, 16384, 18, 257216, 1024,
              tied=True, linear=2_395_238_400, kv_width=256, source=COUNTED),
    Published("google/paligemma2-3b-mix-224", 3_032_242_416, 2304, 9216, 26, 257216, 256,
              tied=True, linear=2_438_000_640, kv_width=1024, source=COUNTED),
    Published("google/paligemma2-3b-mix-448", 3_033_127_152, 2304, 9216, 26, 257216, 1024,
              tied=True, linear=2_438_000_640, kv_width=1024, source=COUNTED),
    Published("google/paligemma2-10b-mix-224", 9_662_638_832, 3584, 14336, 42, 257216, 256,
              tied=True, linear=8_738_795_520, kv_width=2048, source=COUNTED),
    Published("google/paligemma2-10b-mix-448", 9_663_523_568, 3584, 14336, 42, 257216, 1024,
              tied=True, linear=8_738_795_520, kv_width=2048, source=COUNTED),
    Published("google/paligemma2-28b-mix-224", 27_650_487_024, 4608, 36864, 46, 257216, 256,
              tied=True, linear=26_463_006_720, kv_width=2048, source=COUNTED),
    Published("google/paligemma2-28b-mix-448", 27_651_371_760, 4608, 36864, 46, 257216, 1024,
              tied=True, linear=26_463_006_720, kv_width=2048, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="paligemma",
    title="PaliGemma 1, 2",
    model_types=(("paligemma", "gemma"), ("paligemma", "gemma2")),
    model_class="transformers:PaliGemmaForConditionalGeneration",
    prompt="{image}" + TEXT_PROMPT,
    text_prompt=TEXT_PROMPT,
    image_token="<image>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "paligemma-3b": "google/paligemma-3b-mix-224",
        "paligemma-3b-448": "google/paligemma-3b-mix-448",
        "paligemma2-3b": "google/paligemma2-3b-mix-224",
        "paligemma2-3b-448": "google/paligemma2-3b-mix-448",
        "paligemma2-10b": "google/paligemma2-10b-mix-224",
        "paligemma2-10b-448": "google/paligemma2-10b-mix-448",
        "paligemma2-28b": "google/paligemma2-28b-mix-224",
        "paligemma2-28b-448": "google/paligemma2-28b-mix-448",
    },
    published=PUBLISHED,
    vision_sites=("model.multi_modal_projector.linear",),
    text_inputs=text_inputs,
    after_projection=capped,
    decoding=decoding,
)
