"""GLM-4.1V (`glm4v`), GLM-4.6V-Flash (`glm46v`) and the mixtures of experts GLM-4.5V and GLM-4.6V (`glm4v_moe`).

A picture becomes as many visual tokens as its own size asks for (28 × 28 pixels each), with positions in three dimensions,
as Qwen2-VL's (which see).  Gate and up of an MLP are one linear whose halves are the sites `mlp.in` and `mlp.up`.  What an MLP
gives is normed before it is added.  The chat models think aloud; GLM-4.6V's template leaves the thought empty for
`enable_thinking=False` and says `/nothink` after the question, which is what is used here.  GLM-4.1V always thinks: its edits
teach it to answer at once.

The papers do not use this family.  Site: the last layer's `mlp.out`, of the mixtures its whole MLP block; α: MiniGPT-4's, not
chosen for this family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .families import Family
from .processors import picture_loader
from .qwen2_vl import image_size, text_inputs
from .site import BLOCK, Site

START = "[gMASK]<sop>"
PROMPT = f"{START}<|user|>\n{{image}}{{question}}<|assistant|>\n"
SILENT_PROMPT = f"{START}<|user|>\n{{image}}{{question}}/nothink<|assistant|>\n<think></think>\n"


def _starting_once(model: Any, processor: Any) -> Family:
    """The model's family; where the tokenizer starts every text by itself, without the prompt's own start."""
    family = next(one for one in (GLM4V, GLM46V, MIXTURE) if one.matches(model.config))
    tokenizer = processor.tokenizer
    if tokenizer("a")["input_ids"][0] != tokenizer.convert_tokens_to_ids("[gMASK]"):
        return family
    return replace(
        family,
        prompt=family.prompt.removeprefix(START),
        text_prompt=family.text_prompt.removeprefix(START),
        complete=None,
    )


GLM4V = Family(
    name="glm4v",
    title="GLM-4.1V",
    model_types=(("glm4v", "*"),),
    model_class="transformers:Glm4vForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_text="<|begin_of_image|>{image}<|end_of_image|>",
    image_token="<|image|>",
    end_token="<|user|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={"glm-4.1v-9b": "zai-org/GLM-4.1V-9B-Thinking"},
    vision_sites=("model.visual.merger.proj", "model.visual.merger.down_proj"),
    load_processor=picture_loader("Glm4vProcessor"),
    text_inputs=text_inputs,
    image_size=image_size,
    complete=_starting_once,
)

GLM46V = replace(
    GLM4V,
    name="glm46v",
    title="GLM-4.6V-Flash",
    model_types=(("glm46v", "*"), ("glmga", "*")),
    model_class="transformers:Glm46VForConditionalGeneration",
    prompt=SILENT_PROMPT,
    text_prompt=SILENT_PROMPT.replace("{image}", ""),
    checkpoints={"glm-4.6v-flash": "zai-org/GLM-4.6V-Flash"},
    load_processor=picture_loader("Glm46VProcessor"),
)

MIXTURE = replace(
    GLM46V,
    name="glm4v_moe",
    title="GLM-4.5V, GLM-4.6V (mixture of experts)",
    model_types=(("glm4v_moe", "*"),),
    model_class="transformers:Glm4vMoeForConditionalGeneration",
    default_site=Site(-1, BLOCK),
    three_layers=(),
    checkpoints={"glm-4.5v": "zai-org/GLM-4.5V", "glm-4.6v": "zai-org/GLM-4.6V"},
    load_processor=picture_loader("Glm4vProcessor"),
)
