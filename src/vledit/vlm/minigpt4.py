"""MiniGPT-4: ViT-g, Q-Former, linear projection, Vicuna; `Blip2ForConditionalGeneration` with a Llama text model.

MiniGPT-4 was trained to end an answer with `###`, Vicuna's turn mark.  Site, layer and α: BalancEdit, Sec. 4.1
(`llama_model.model.layers[31].mlp.up_proj`, the last of 32; α = 0.2).  Lists of edited parameters: De-VQA,
Table 3 (`up_proj` and `down_proj` of layers 29 to 31; output projections of the last three Q-Former layers).  No
checkpoint in Hugging Face form is published: load a converted folder.
"""

from __future__ import annotations

from .blip2 import QFORMER_OUTPUTS
from .families import Family
from .published import COUNTED, Published
from .site import Site

# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Vision-CAIR/MiniGPT-4", 7_832_688_128, 4096, 11008, 32, 32001, 32,
              names=("minigpt4-vicuna-7b",), convert="minigpt4",
              linear=7_463_174_144, kv_width=4096, float32=105_162_240, source=COUNTED),
)
# fmt: on

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
    defaults_from="BalancEdit, Sec. 4.1",
    published=PUBLISHED,
    vision_sites=QFORMER_OUTPUTS,
)
