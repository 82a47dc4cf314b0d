"""VLEdit on a GPU: every tiny family against the CPU, then models of true size with random weights, what edits and answers cost.

    PYTHONPATH=. .venv/bin/python benchmarks/true_size.py [out.json] [families] [true_size]

Without names both parts run, about 3 minutes on a large GPU; on a CPU it only shows that it runs.  Ratios are taken round by
round, the ways in turn:
everything here is bound by launches, and absolute times differ by up to two between machines of one kind.
"""

import json
import statistics
import sys
import tempfile
import time
import traceback

import torch
from PIL import Image
from tests.vlm import models as tiny
from tests.vlm.tokens import llama_tokenizer, opt_tokenizer
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    OPTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.vlm import VLM, registry

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FIT = {"steps": 200, "margin": 1.0, "common_directions": 4, "rephrase": "supplied", "alpha": 1.0}
SIZE = (224, 224)
STEPS = {} if GPU else {"steps": 400}  # the stand-in for a CPU is too small to learn fast
found: dict = {"device": torch.cuda.get_device_name(0) if GPU else "cpu", "torch": torch.__version__}


def save() -> None:
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump(found, file, indent=1)


def rounds(ways: dict, n: int = 9, warm: int = 2) -> dict:
    """name → median milliseconds, and the median over rounds of its ratio to the first way."""
    times: dict = {name: [] for name in ways}
    for turn in range(n + warm):
        for name, way in ways.items():
            if GPU:
                torch.cuda.synchronize()
            began = time.perf_counter()
            way()
            if GPU:
                torch.cuda.synchronize()
            if turn >= warm:
                times[name].append(time.perf_counter() - began)
    first = next(iter(times.values()))
    ratio = {name: statistics.median(a / b for a, b in zip(ts, first, strict=True)) for name, ts in times.items()}
    return {
        name: {"ms": round(statistics.median(ts) * 1e3, 2), "ratio": round(ratio[name], 3)}
        for name, ts in times.items()
    }


def family(name: str) -> dict:
    cpu, gpu = tiny.build(name), tiny.build(name)
    gpu = VLM(gpu.model.to(DEVICE), gpu.processor, gpu.family, gpu.name)
    request = EditRequest(tiny.picture(1), tiny.QUESTIONS[0], "two cups", ("What is shown in this picture?",))
    rows = [(request.image, request.question), (tiny.picture(9), tiny.QUESTIONS[2]), (None, tiny.QUESTIONS[1])]
    pictures, questions = [list(part) for part in zip(*rows, strict=True)]
    base = [str(a) for a in EditedModel(gpu).answers(pictures, questions, 6)]
    seen: dict = {"answers_as_on_cpu": base == [str(a) for a in EditedModel(cpu).answers(pictures, questions, 6)]}
    for kind, rate in (("full", 0.05), ("span", 1.0)):
        model = EditedModel(gpu)
        encoded = gpu.encode([request.image], [request.question])
        before = gpu.head(gpu.trunk(encoded, -1)).clone()
        edit = model.edit(request, "balancedit", transformation=kind, learning_rate=rate, **FIT)
        batch = [str(a) for a in model.answers(pictures, questions, 6)]
        seen[f"{kind}_fires"] = batch[0] == "two cups"
        seen[f"{kind}_spares"] = batch[1] == base[1]
        seen[f"{kind}_batch_is_rows"] = batch == [str(model.answer(*row, 6)) for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            seen[f"{kind}_reloads_on_cpu"] = (
                str(EditedModel.from_pretrained(cpu, folder).answer(*rows[0])) == "two cups"
            )
        model.remove(edit.id)
        seen[f"{kind}_undo_bits"] = bool((gpu.head(gpu.trunk(encoded, -1)) == before).all())
    return seen


def true_size(name: str) -> VLM:
    if name == "blip2-opt-2.7b":
        tokenizer = opt_tokenizer()
        text = OPTConfig(
            hidden_size=2560,
            ffn_dim=10240,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=50272,
            word_embed_proj_dim=2560,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
    else:
        tokenizer = llama_tokenizer()
        text = LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=32000,
            bos_token_id=1,
            eos_token_id=2,
        )
    vision, qformer = Blip2VisionConfig(), None
    if not GPU:  # only to see that it runs
        text.num_hidden_layers, text.hidden_size, text.num_attention_heads = 2, 64, 4
        for side in ("num_key_value_heads", "ffn_dim", "intermediate_size", "word_embed_proj_dim"):
            setattr(text, side, {"num_key_value_heads": 4, "word_embed_proj_dim": 64}.get(side, 128))
        vision = Blip2VisionConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=64, num_attention_heads=4)
        qformer = Blip2QFormerConfig(
            num_hidden_layers=1, hidden_size=64, intermediate_size=64, num_attention_heads=4, encoder_hidden_size=64
        )
    qformer = qformer or Blip2QFormerConfig(encoder_hidden_size=vision.hidden_size)
    # the processor puts "<image>" into the tokenizer
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": 224, "width": 224}), tokenizer, num_query_tokens=32
    )
    token = tokenizer.convert_tokens_to_ids("<image>")
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=32,
        image_token_index=token,
    )
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        model = Blip2ForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    return VLM(model, processor, registry.family_of(config), name=name)


def plain(vlm: VLM, request: EditRequest, steps: int = 50) -> None:
    """The loop of the released code: whole passes of the model, Adam on the site's weight."""
    weight = vlm.site_module(vlm.default_site).weight
    before = weight.detach().clone()
    encoded = vlm.encode([request.image], [request.question], [request.answer])
    weight.requires_grad_(True)
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(steps if GPU else 2):
        logits = vlm.model(**encoded.model_inputs).logits[encoded.predict_mask]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), encoded.targets).backward()
        optimizer.step()
    weight.requires_grad_(False)
    with torch.no_grad():
        weight.copy_(before)


def costs(name: str) -> dict:
    vlm = true_size(name)
    pictures = [tiny.picture(i, SIZE) for i in range(40)]
    requests = [
        EditRequest(
            picture,
            f"Question {i}: what is shown in the picture here?",
            ["two cups", "a red fox", "New York"][i % 3],
            (f"Question {i}, tell me: what does the picture show?",),
        )
        for i, picture in enumerate(pictures)
    ]
    numbers = iter(range(10**6))
    nth = lambda: requests[next(numbers) % len(requests)]  # noqa: E731
    full, span = (editor("balancedit", transformation=kind, rephrase="supplied", **STEPS) for kind in ("full", "span"))
    seen: dict = {
        "site": str(vlm.default_site),
        "parameters_b": round(sum(p.numel() for p in vlm.model.parameters()) / 1e9, 2),
    }
    span.edit(vlm, nth())  # what is measured once per model
    seen["edit"] = rounds(
        {
            "plain": lambda: plain(vlm, requests[0]),
            "full": lambda: full.edit(vlm, nth()),
            "span": lambda: span.edit(vlm, nth()),
        },
        5,
        1,
    )
    for check in (False, True):  # whether each edit is followed by the question whether it broke an older one
        given = {"transformation": "span", "rephrase": "supplied", "check": check, **STEPS}
        turns = rounds(
            {"together": lambda: EditedModel(vlm).edit(requests[:32], "balancedit", **given)},  # noqa: B023
            *((5, 1) if GPU else (1, 0)),
        )
        seen[f"edits_32_ms_each{'_checked' if check else ''}"] = round(turns["together"]["ms"] / 32, 2)
    base, near, far = EditedModel(vlm), EditedModel(vlm), EditedModel(vlm)
    for request in requests[:32]:
        near.edit(request, "balancedit", transformation="span", rephrase="supplied", alpha=0.2, **STEPS)
        far.edit(request, "balancedit", transformation="span", rephrase="supplied", alpha=1.0, **STEPS)
    first, other = requests[0], (Image.new("RGB", SIZE), "Who?")
    seen["fires"] = [
        bool(near.answer(first.image, first.question, 5).decision.fired),
        bool(far.answer(*other, 5).decision.fired),
    ]
    for tokens in (1, 5):  # with one token nothing depends on how long an answer is
        asked = lambda model: model.answer(first.image, first.question, tokens)  # noqa: B023, E731
        ways = {"base": lambda: asked(base), "base again": lambda: asked(base), "edited": lambda: asked(near)}  # noqa: B023
        seen[f"answer_fired_{tokens}"] = rounds(ways, 15)
        away = lambda model: model.answer(*other, tokens)  # noqa: B023, E731
        ways = {"base": lambda: away(base), "base again": lambda: away(base), "edited": lambda: away(far)}  # noqa: B023
        seen[f"answer_unfired_{tokens}"] = rounds(ways, 15)
    questions = [request.question for request in requests[:32]]
    for tokens in (1, 5):
        many = lambda model: model.answers(pictures[:32], questions, tokens)  # noqa: B023, E731
        ways = {"base": lambda: many(base), "base again": lambda: many(base), "edited": lambda: many(near)}  # noqa: B023
        seen[f"batch_32_{tokens}"] = rounds(ways, 7, 1)
    if GPU:
        seen["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return seen


chosen = [name for name in sys.argv[2:] if name in ("families", "true_size")] or ["families", "true_size"]
for part, names, measure in (
    ("families", tiny.FAMILIES if GPU else tiny.FAMILIES[:2], family),
    ("true_size", ("blip2-opt-2.7b", "minigpt4-7b"), costs),
):
    if part not in chosen:
        continue
    found[part] = {}
    for name in names:
        try:
            found[part][name] = measure(name)
        except Exception as error:
            found[part][name] = {
                "error": f"{type(error).__name__}: {error}"[:300],
                "where": traceback.format_exc().splitlines()[-5:],
            }
        print(name, json.dumps(found[part][name]), flush=True)
        save()
        if GPU:
            torch.cuda.empty_cache()
