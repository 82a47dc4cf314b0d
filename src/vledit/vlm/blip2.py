"""BLIP-2 with an OPT language model (`Blip2ForConditionalGeneration`).

The 32 visual tokens stand before everything, OPT's start token included.  Prompt: BLIP-2, Sec. 4.1.  Site and layer:
BalancEdit, Sec. 4.1 (`opt_model.model.decoder.layers[31].fc2`, the last of 32).  The paper chooses α for each
model on 5 held-out samples and prints it for MiniGPT-4 alone; the 0.05 here is not printed there: choose it anew with
`vledit choose-alpha`.  Lists of edited parameters: De-VQA, Table 2 (`fc1` and `fc2` of layers 29 to 31; output projections
of the last three Q-Former layers).
"""

from __future__ import annotations

from .families import Family
from .published import COUNTED, Published
from .site import Site

QFORMER_OUTPUTS = tuple(f"qformer.encoder.layer.{layer}.output_query.dense" for layer in (-3, -2, -1))

# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Salesforce/blip2-opt-2.7b", 3_744_761_856, 2560, 10240, 32, 50304, 32,
              tied=True, linear=3_502_571_520, kv_width=2560, float32=105_162_240, source=COUNTED),
    Published("Salesforce/blip2-opt-6.7b", 7_752_869_376, 4096, 16384, 32, 50304, 32,
              tied=True, linear=7_429_619_712, kv_width=4096, float32=105_162_240, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="blip2",
    title="BLIP-2 (OPT)",
    model_types=(("blip-2", "opt"),),
    model_class="transformers:Blip2ForConditionalGeneration",
    prompt="Question: {question} Answer:",
    text_prompt="Question: {question} Answer:",
    image_token="<image>",
    image_first=True,
    count_image_tokens=lambda config: config.num_query_tokens,
    answer_prefix=" ",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.05,
    defaults_from="BalancEdit, Sec. 4.1 (the site)",
    published=PUBLISHED,
    vision_sites=QFORMER_OUTPUTS,
    checkpoints={
        "blip2": "Salesforce/blip2-opt-2.7b",
        "blip2-opt-2.7b": "Salesforce/blip2-opt-2.7b",
        "blip2-opt-6.7b": "Salesforce/blip2-opt-6.7b",
    },
)
