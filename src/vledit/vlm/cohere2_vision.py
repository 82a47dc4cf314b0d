"""Command A Vision (`Cohere2VisionForConditionalGeneration`): SigLIP 2, pixel shuffle, two linears, Command A.

A picture is cut into up to twelve tiles of 512 × 512 pixels, 256 `<|IMG_PATCH|>` each, and where there are several a
small copy of the whole follows. Attention and MLP of a layer read the same norm and are added up. Three of four
layers see a window of 4,096 tokens. The prompt is that of the checkpoint's own chat template, with its preamble,
where there is one.

The papers do not use this family. Site: the last layer's `mlp.out`; α: MiniGPT-4's, not chosen for this family
(`vledit choose-alpha` does).
"""

from __future__ import annotations

from typing import Any

from .chat import as_the_processor_says
from .families import Family
from .published import ASSUMED, Published
from .site import Site

START, END = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
PROMPT = f"{START}<|USER_TOKEN|>{{image}}{{question}}{END}{START}<|CHATBOT_TOKEN|><|START_RESPONSE|>"
MARK = "<|IMG_PATCH|>"


def load_processor(source: str, config: Any) -> Any:
    """transformers' processor, with an image processor that needs no torchvision."""
    from transformers import AutoTokenizer
    from transformers.models.cohere2_vision.processing_cohere2_vision import Cohere2VisionProcessor

    from .readers.cohere2_vision import Cohere2VisionImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(source)
    images = Cohere2VisionImageProcessor.from_pretrained(source)
    return Cohere2VisionProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def complete(model: Any, processor: Any) -> Family:
    """The family, with the prompt of the checkpoint's own template."""
    return as_the_processor_says(FAMILY, processor, MARK)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("CohereLabs/command-a-vision-07-2025", 111_803_250_432, 12288, 36864, 64, 256000, 256,
              tied=True, linear=108_650_250_240, kv_width=1024, source=ASSUMED),
)
# fmt: on

FAMILY = Family(
    name="cohere2_vision",
    title="Command A Vision",
    model_types=(("cohere2_vision", "cohere2"),),
    model_class="transformers:Cohere2VisionForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token=MARK,
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={"command-a-vision": "CohereLabs/command-a-vision-07-2025"},
    published=PUBLISHED,
    vision_sites=("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    load_processor=load_processor,
    complete=complete,
)
