"""MiniGPT-4: ViT-g, Q-Former, linear projection, Vicuna; `Blip2ForConditionalGeneration` with a Llama text model.

MiniGPT-4 was trained to end an answer with `###`, Vicuna's turn mark.  Site, layer and α: BalancEdit, Sec. 4.1
(`llama_model.model.layers[31].mlp.up_proj`, the last of 32; α = 0.2).  No checkpoint in Hugging Face form is
published: load a converted folder.
"""

from __future__ import annotations

from .families import Family
from .site import Site

FAMILY = Family(
    name="minigpt4",
    title="MiniGPT-4 (Vicuna)",
    model_types=(("blip-2", "llama"),),
    model_class="transformers:Blip2ForConditionalGeneration",
    prompt="###Human: <Img>{image}</Img> {question} ###Assistant:",
    text_prompt="###Human: {question} ###Assistant:",
    image_token="<image>",
    count_image_tokens=lambda config: config.num_query_tokens,
    answer_prefix=" ",
    end_of_answer="###",
    default_site=Site(-1, "mlp.up"),
    default_alpha=0.2,
)
