"""MiniGPT-4 out of its published pieces: the same logits, every tensor accounted for, clear errors, crash-safe."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, OPTConfig

from tests.vlm.models import llama_tokenizer, picture
from vledit import loading
from vledit.convert import folder as folders
from vledit.convert.minigpt4 import Pieces, Unwritten, account, convert, model_config
from vledit.convert.naming import QFORMER, VISION, fate
from vledit.convert.plan import ConversionError, Piece, make_plan
from vledit.convert.sources import Shape, open_checkpoint
from vledit.errors import InputError, MissingDataError

from . import published as pub

QUESTION = "Which animal is this?"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> tuple[pub.Published, Path, dict]:
    """The pieces, the converted folder and its manifest; tests must not change them."""
    published = pub.publish(tmp_path_factory.mktemp("published"))
    out = published.folder / "minigpt4"
    return published, out, convert(published.pieces, out, unwritten=pub.UNWRITTEN)


@pytest.fixture
def pieces(tmp_path) -> pub.Published:
    """Fresh pieces, to be spoiled."""
    return pub.publish(tmp_path)


def fails(published: pub.Published, pieces: Pieces | None = None) -> str:
    """The message of a conversion that must fail; nothing may be left behind."""
    out = published.folder / "out" / "minigpt4"
    with pytest.raises((ConversionError, InputError, MissingDataError)) as caught:
        convert(pieces or published.save().pieces, out, unwritten=pub.UNWRITTEN)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return str(caught.value)


class TestTheModel:
    @pytest.mark.parametrize("size", [(32, 32), (48, 20)])
    def test_gives_the_logits_of_the_published_pieces(self, miniature, size):
        published, out, _ = miniature
        vlm = loading.load_vlm(out)
        assert vlm.family.name == "minigpt4"
        image = picture(0, size)
        encoded = vlm.encode([image], [QUESTION])
        found = vlm.head(vlm.trunk(encoded, 0))[0]
        ids, image_at = encoded.input_ids[0].tolist(), encoded.visual_mask[0].tolist()
        assert sum(image_at) == pub.MINIATURE.queries
        expected = pub.speak(published, image, ids, image_at)
        found = found[:, : expected.shape[1]]
        # the one thing that differs is the epsilon of ln_vision; with transformers' own the logits are the same
        torch.testing.assert_close(found, pub.speak(published, image, ids, image_at, eps=1e-6), atol=1e-4, rtol=1e-4)
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
        assert torch.equal(found.argmax(-1), expected.argmax(-1))

    def test_the_picture_matters_to_the_reference(self, miniature):
        published = miniature[0]
        ids, image_at = [1, *[5] * 4, 9], [False, *[True] * 4, False]
        first, second = (pub.speak(published, picture(seed), ids, image_at) for seed in (0, 1))
        assert (first - second).abs().max() > 0.05

    def test_the_placeholder_is_never_likelier_than_unk(self, miniature):
        _, out, _ = miniature
        vlm = loading.load_vlm(out)
        token, unknown = vlm.image_token_id, vlm.tokenizer.unk_token_id
        assert token == len(llama_tokenizer())
        assert vlm.anatomy.lm_head.out_features == token + 1
        logits = vlm.head(vlm.trunk(vlm.encode([picture(0)], [QUESTION]), 0))
        torch.testing.assert_close(logits[..., token], logits[..., unknown])

    def test_a_vocabulary_with_room_is_left_as_it_is(self, pieces):
        pub.write_vicuna(pieces.folder / "vicuna", vocab_size=len(llama_tokenizer()) + 5)
        out = pieces.folder / "out"
        manifest = convert(pieces.pieces, out, unwritten=pub.UNWRITTEN)
        assert manifest["tensors"]["language_model.lm_head.weight"]["how"] == "copy"
        assert loading.load_vlm(out).anatomy.lm_head.out_features == len(llama_tokenizer()) + 5

    def test_answers_and_takes_edits(self, miniature):
        from vledit import EditRequest

        edited = loading.load(miniature[1])
        request = EditRequest(picture(0), QUESTION, "a cat", rephrases=("What animal is it?",))
        edited.edit(request, rephrase="supplied", steps=200, learning_rate=0.05)
        assert edited.answer(picture(0), QUESTION).text == "a cat"


class TestTheAccount:
    def test_every_tensor_of_the_model_and_of_the_pieces(self, miniature):
        published, out, manifest = miniature
        assert json.loads((out / folders.MANIFEST).read_text()) == manifest
        states = {"vision": published.vision, "q-former": published.qformer, "projection": published.projection}
        vicuna = {n for p in sorted(published.pieces.language.glob("*.bin")) for n in torch.load(p, weights_only=True)}
        all_published = {f"{source}: {name}" for source, state in states.items() for name in state}
        all_published |= {f"vicuna: {name}" for name in vicuna}
        used = [part for tensor in manifest["tensors"].values() for part in tensor["from"]]
        left_out = [f"{s}: {n}" for s, why in manifest["left_out"].items() for names in why.values() for n in names]
        assert sorted(used + left_out) == sorted(all_published)
        written = load_file(out / "model.safetensors")
        assert set(written) == set(manifest["tensors"]) == set(loading.load_vlm(out).model.state_dict())

    def test_what_is_left_out_and_why(self, miniature):
        left_out = miniature[2]["left_out"]
        reasons = {name: why for names in left_out.values() for why, ns in names.items() for name in ns}
        assert {name for name in reasons if name.startswith("blocks.")} == {
            name for name in pub.eva_vit() if name.startswith("blocks.2.")
        }
        assert "ln_vision" in reasons["norm.weight"]
        assert "language model" in reasons["t5_proj.bias"]
        assert all(len(why) > 20 for why in reasons.values())

    def test_bits_are_those_that_were_published(self, miniature):
        published, out, manifest = miniature
        written = load_file(out / "model.safetensors")
        states = {"vision": published.vision, "q-former": published.qformer, "projection": published.projection}
        copies = 0
        for name, tensor in manifest["tensors"].items():
            source, _, old = tensor["from"][0].partition(": ")
            if tensor["how"] == "copy" and source != "vicuna":
                assert written[name].dtype == states[source][old].dtype
                assert torch.equal(written[name], states[source][old]), name
                copies += 1
        assert copies > 60
        joined = written["vision_model.encoder.layers.1.self_attn.qkv.bias"]
        q, v = (published.vision[f"blocks.1.attn.{x}_bias"] for x in "qv")
        assert torch.equal(joined, torch.cat([q, torch.zeros(16, dtype=q.dtype), v]))

    def test_hashes_of_all_files(self, miniature):
        published, out, manifest = miniature
        for source in manifest["sources"].values():
            for file in source:
                (path,) = published.folder.glob(f"**/{file['name']}")
                assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        listed = {file["name"] for file in (*manifest["shards"], *manifest["files"])}
        assert listed == {path.name for path in out.iterdir()} - {folders.MANIFEST}
        assert folders.verify(out) == len(listed)

    def test_the_same_pieces_give_the_same_manifest(self, miniature, tmp_path):
        published, _, manifest = miniature
        assert convert(published.pieces, tmp_path / "again", unwritten=pub.UNWRITTEN) == manifest

    def test_the_published_sizes_fit_too(self):
        """Names and shapes at full size, no values: ViT-g with 40 blocks, Q-Former of FLAN-T5-XXL, Vicuna-7B."""
        config = LlamaConfig(
            hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
        )
        vicuna: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (32000, 4096),
            "model.norm.weight": (4096,),
            "lm_head.weight": (32000, 4096),
        }
        for i in range(32):
            layer = {f"self_attn.{x}_proj.weight": (4096, 4096) for x in "qkvo"}
            layer |= {f"mlp.{x}_proj.weight": (11008, 4096) for x in ("gate", "up")}
            layer |= {"mlp.down_proj.weight": (4096, 11008), "self_attn.rotary_emb.inv_freq": (64,)}
            layer |= {f"{x}_layernorm.weight": (4096,) for x in ("input", "post_attention")}
            vicuna |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        sources = {
            "vision": pub.shapes_only("vision", pub.eva_vit(pub.TRUE)),
            "q-former": pub.shapes_only("q-former", pub.lavis(pub.TRUE)),
            "projection": pub.shapes_only("projection", pub.projection(pub.TRUE)),
            "vicuna": pub.shapes_only("vicuna", vicuna),
        }

        class Tokenizer:
            unk_token_id = 0

            def convert_tokens_to_ids(self, token: str) -> int:
                return 32000

        found = model_config(sources, config, Tokenizer(), Unwritten())
        plan = account(sources, found, Tokenizer(), Unwritten())
        assert found.vision_config.image_size == 224
        assert found.num_query_tokens == 32
        assert found.qformer_config.cross_attention_frequency == 2
        assert plan.sizes["language_model.lm_head.weight"] == (32001, 4096)
        count = sum(torch.Size(size).numel() for size in plan.sizes.values())
        assert 7.8e9 < count < 7.95e9  # 6.74 B Vicuna, 0.98 B ViT-g, 0.105 B Q-Former, 3 M projection


class TestVariants:
    def test_the_vit_may_lie_in_the_blip2_checkpoint(self, miniature, tmp_path):
        published, out, _ = miniature
        inside = {f"visual_encoder.{n}": t for n, t in published.vision.items() if not n.startswith(("norm", "head"))}
        whole = tmp_path / "blip2_whole.pth"
        torch.save({"model": {**published.qformer, **inside}}, whole)
        pieces = Pieces(whole, published.pieces.language, published.pieces.projection)
        convert(pieces, tmp_path / "out", unwritten=pub.UNWRITTEN)
        first, second = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "out"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_stage_one_with_its_text_side(self, miniature, tmp_path):
        published = pub.publish(tmp_path, with_text=True)
        manifest = convert(published.pieces, tmp_path / "out", unwritten=pub.UNWRITTEN)
        assert sum(len(names) for names in manifest["left_out"]["q-former"].values()) > 30
        assert set(manifest["tensors"]) == set(miniature[2]["tensors"])

    def test_shards_and_safetensors_of_vicuna(self, miniature, tmp_path):
        published = pub.publish(tmp_path, kind="safetensors")
        out = tmp_path / "out"
        manifest = convert(published.pieces, out, unwritten=pub.UNWRITTEN, shard_bytes=40_000)
        assert len(manifest["shards"]) > 2
        tensors = [load_file(out / shard["name"]) for shard in manifest["shards"]]
        assert all(len(t) == 1 or sum(x.nbytes for x in t.values()) <= 40_000 for t in tensors)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(x.nbytes for t in tensors for x in t.values())
        assert loading.load_vlm(out).fingerprint == loading.load_vlm(miniature[1]).fingerprint

    def test_one_dtype_for_all(self, miniature, tmp_path):
        convert(miniature[0].pieces, tmp_path / "out", unwritten=pub.UNWRITTEN, dtype="bf16")
        written = load_file(tmp_path / "out" / "model.safetensors")
        assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}

    def test_files_of_before_pytorch_1_6(self, pieces):
        torch.save({"model": pieces.qformer}, pieces.pieces.qformer, _use_new_zipfile_serialization=False)
        source = open_checkpoint("q-former", pieces.pieces.qformer)
        assert torch.equal(source.read("query_tokens"), pieces.qformer["query_tokens"])

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
    def test_large_files_are_mapped_not_read(self, pieces):
        source = open_checkpoint("vision", pieces.pieces.vision)
        assert str(pieces.pieces.vision) in Path("/proc/self/maps").read_text()
        assert torch.equal(source.read("pos_embed"), pieces.vision["pos_embed"])


class TestFaults:
    @pytest.mark.parametrize(
        ("piece", "name", "told"),
        [
            ("vision", "blocks.1.attn.v_bias", "encoder.layers.1.self_attn.qkv.bias (its v_bias)"),
            ("vision", "blocks.0.mlp.fc2.bias", "encoder.layers.0.mlp.fc2.bias"),
            ("vision", "patch_embed.proj.weight", "'patch_embed.proj.weight' is missing"),
            ("qformer", "ln_vision.weight", "vision_model.post_layernorm.weight"),
            ("qformer", "query_tokens", "'query_tokens' is missing"),
            ("qformer", "Qformer.bert.encoder.layer.2.crossattention.self.key.weight", "layer.2.crossattention"),
            ("projection", "llama_proj.bias", "language_projection.bias"),
        ],
    )
    def test_a_missing_tensor_is_named(self, pieces, piece, name, told):
        del getattr(pieces, piece)[name]
        message = fails(pieces)
        assert told in message
        assert "missing" in message

    @pytest.mark.parametrize(
        ("piece", "name"),
        [
            ("vision", "blocks.0.gamma_1"),
            ("vision", "rel_pos_bias.relative_position_bias_table"),
            ("qformer", "Qformer.bert.encoder.layer.0.experts.0.dense.weight"),
            ("projection", "llama_model.base_model.model.layers.0.lora_A.weight"),
        ],
    )
    def test_a_surplus_tensor_is_named(self, pieces, piece, name):
        getattr(pieces, piece)[name] = torch.zeros(3)
        assert f"{name}" in fails(pieces)

    def test_too_few_and_too_many_blocks(self, pieces):
        blocks = {name: t for name, t in pieces.vision.items() if not name.startswith("blocks.")}
        pieces.vision = {**blocks, **{n: t for n, t in pieces.vision.items() if n.startswith("blocks.0.")}}
        assert "vision_model.encoder.layers.1.layer_norm1.weight" in fails(pieces)

    def test_vicuna_of_another_depth(self, pieces):
        config = json.loads((pieces.folder / "vicuna" / "config.json").read_text())
        config["num_hidden_layers"] = 1
        (pieces.folder / "vicuna" / "config.json").write_text(json.dumps(config))
        message = fails(pieces)
        assert "surplus" in message
        assert "model.layers.1." in message

    def test_another_size_is_told_with_both_sizes(self, pieces):
        pieces.qformer["ln_vision.weight"] = torch.ones(17)
        message = fails(pieces)
        assert "[17]" in message
        assert "[16]" in message

    def test_a_tensor_that_is_there_twice(self):
        vision = pub.shapes_only("a", {"cls_token": (1, 1, 4)}), pub.shapes_only("b", {"cls_token": (1, 1, 4)})
        sizes = {"vision_model.embeddings.class_embedding": (1, 1, 4)}
        with pytest.raises(ConversionError, match=r"1 there twice: vision_model.*a: cls_token and b: cls_token"):
            make_plan([Piece(one, VISION) for one in vision], sizes, {})

    def test_likely_mix_ups_in_words(self, pieces):
        good = dict(pieces.projection)
        pieces.projection = {**good, "llama_proj.weight": torch.zeros(32, 64)}
        assert "without Q-Former" in fails(pieces)
        pieces.projection = {**good, "llama_proj.weight": torch.zeros(40, 12)}
        assert "width 40" in fails(pieces)
        pieces.projection = good
        pieces.save()
        both = Pieces(pieces.pieces.vision, pieces.pieces.language, pieces.pieces.projection, pieces.pieces.qformer)
        assert "Is it the right file?" in fails(pieces, both)

    def test_vit_given_twice_or_not_at_all(self, pieces):
        given = pieces.pieces
        assert "give eva_vit_g.pth" in fails(pieces, Pieces(given.qformer, given.language, given.projection))
        pieces.qformer["visual_encoder.cls_token"] = torch.zeros(1, 1, 16)
        assert "holds a ViT already" in fails(pieces)

    def test_files_that_are_not_there(self, pieces):
        given = pieces.pieces
        wrong = Pieces(given.qformer.with_name("no.pth"), given.language, given.projection, given.vision)
        assert "eva_vit_g.pth" in fails(pieces, wrong)  # what is in that folder
        wrong = Pieces(given.qformer, given.language.with_name("no"), given.projection, given.vision)
        assert "no folder" in fails(pieces, wrong)
        next(given.language.glob("*-00002.bin")).unlink()
        assert "lacks pytorch_model-00002-of-00002.bin" in fails(pieces)

    def test_another_kind_of_language_model(self, pieces):
        OPTConfig(hidden_size=32, num_attention_heads=4).save_pretrained(pieces.folder / "vicuna")
        assert "type 'opt'" in fails(pieces)

    def test_damaged_files(self, pieces):
        content = pieces.pieces.vision.read_bytes()
        pieces.pieces.vision.write_bytes(content[: len(content) // 2])
        assert "cannot be read" in fails(pieces, pieces.pieces)

    def test_code_in_a_checkpoint_is_never_run(self, pieces):
        torch.save({"model": {"query_tokens": Bomb(pieces.folder / "boom")}}, pieces.pieces.qformer)
        assert "cannot be read" in fails(pieces, pieces.pieces)
        assert not (pieces.folder / "boom").exists()

    def test_a_training_state_without_model_is_refused(self, pieces):
        torch.save({"optimizer": {"lr": 1.0}, "epoch": 3}, pieces.pieces.projection)
        assert "no tensor" in fails(pieces, pieces.pieces)

    def test_no_rule_shadows_another(self):
        names = [n for n in pub.lavis(with_text=True) if not n.startswith(("Qformer.cls", "temp"))]
        needed = [n for n in names if (found := fate(n, QFORMER)) is not None and found.target is not None]
        assert all("intermediate." not in n and not n.endswith("position_ids") for n in needed)
        assert len(needed) == len([n for n in pub.lavis() if not n.startswith("t5") and "position_ids" not in n])


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestTheFolder:
    def test_an_existing_folder_is_kept_unless_told_otherwise(self, pieces):
        out = pieces.folder / "out"
        out.mkdir()
        (out / "mine.txt").write_text("precious")
        with pytest.raises(InputError, match="--overwrite"):
            convert(pieces.pieces, out, unwritten=pub.UNWRITTEN)
        assert (out / "mine.txt").read_text() == "precious"
        convert(pieces.pieces, out, unwritten=pub.UNWRITTEN, overwrite=True)
        assert not (out / "mine.txt").exists()
        assert [p for p in pieces.folder.iterdir() if ".tmp" in p.name] == []

    def test_a_failed_write_leaves_nothing(self, pieces):
        def disk_full(text: str, done: int, total: int) -> None:
            raise OSError(28, "No space left on device")

        out = pieces.folder / "new" / "out"
        with pytest.raises(OSError, match="No space"):
            convert(pieces.pieces, out, unwritten=pub.UNWRITTEN, progress=disk_full)
        assert list(out.parent.iterdir()) == []

    def test_killed_in_mid_write(self, pieces):
        """The place of the folder stays empty; what is left is known for what it is, and cleared away a day later."""
        out = pieces.folder / "out" / "model"
        code = (
            "import os, signal, sys; from pathlib import Path; from vledit.convert.minigpt4 import *;"
            "from tests.convert.published import UNWRITTEN;"
            "f = Path(sys.argv[1]); p = Pieces(f/'blip2_pretrained_flant5xxl.pth', f/'vicuna',"
            " f/'pretrained_minigpt4.pth', f/'eva_vit_g.pth');"
            "stop = lambda text, done, total: done > total / 2 and os.kill(os.getpid(), signal.SIGKILL);"
            "convert(p, Path(sys.argv[2]), unwritten=UNWRITTEN, shard_bytes=40000, progress=stop)"
        )
        command = [sys.executable, "-c", code, str(pieces.folder), str(out)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        (left,) = out.parent.iterdir()
        assert list(left.glob("*.safetensors"))
        with pytest.raises(MissingDataError, match="cut short"):
            loading.load_vlm(left)
        convert(pieces.pieces, out, unwritten=pub.UNWRITTEN)
        assert left.exists()  # it might belong to a conversion that still runs
        old = time.time() - 2 * 24 * 3600
        os.utime(left, (old, old))
        convert(pieces.pieces, out, unwritten=pub.UNWRITTEN, overwrite=True)
        assert list(out.parent.iterdir()) == [out]

    def test_a_folder_that_lost_a_shard_or_was_cut_is_not_loaded(self, miniature, tmp_path):
        out = tmp_path / "out"
        manifest = convert(miniature[0].pieces, out, unwritten=pub.UNWRITTEN, shard_bytes=40_000)
        shard = out / manifest["shards"][1]["name"]
        content = shard.read_bytes()
        shard.write_bytes(content[:-1])
        with pytest.raises(MissingDataError, match=rf"{shard.name} has {len(content) - 1} bytes"):
            loading.load_vlm(out)
        shard.unlink()
        with pytest.raises(MissingDataError, match=f"{shard.name} is missing"):
            loading.load_vlm(out)
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        loading.load_vlm(out)  # sizes are right: only the hash tells
        with pytest.raises(MissingDataError, match=f"{shard.name} differs"):
            folders.verify(out)
        (out / folders.MANIFEST).write_text("{")
        with pytest.raises(MissingDataError, match="damaged"):
            loading.load_vlm(out)


def test_shards_hold_what_fits_and_larger_tensors_alone():
    sizes = {"a": 3, "b": 3, "c": 9, "d": 1, "e": 5}
    assert folders.split(sizes, sizes.__getitem__, 6) == [["a", "b"], ["c"], ["d", "e"]]
    assert folders.split([], sizes.__getitem__, 6) == []


def test_shapes_know_their_bytes():
    assert Shape((2, 3), torch.float16).nbytes == 12
    assert Shape((), torch.float32).nbytes == 4
