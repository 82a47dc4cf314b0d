"""Picture models: a tiny diffusers pipeline with random weights, drawings with known truth, an endpoint that misbehaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vledit.data.build.diffusers_pictures import DiffusersPictures
from vledit.data.build.drawing import Order, Studio
from vledit.data.build.endpoint_pictures import EndpointPictures
from vledit.data.build.icon_pictures import IconPictures
from vledit.data.build.picture_models import PictureSettings, Wanted, picture_model
from vledit.data.build.prompts import load_prompts
from vledit.data.build.store import Store
from vledit.errors import InputError, MissingDataError

from .scripted_server import Faults, serving

SETTINGS = PictureSettings(size=32, steps=2, batch=2)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a text-to-image pipeline of a few thousand random weights."""
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    import torch
    from diffusers.models import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=16,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder / "whole")
    return folder / "whole"


def test_a_pipeline_makes_another_picture_for_another_seed(pipeline: Path):
    wanted = [Wanted("a cat", "cat", seed) for seed in (1, 2)]
    first = [made.image for made in DiffusersPictures(str(pipeline), SETTINGS).make(wanted)]
    again = [made.image for made in DiffusersPictures(str(pipeline), SETTINGS).make(wanted)]
    assert all(isinstance(image, Image.Image) and image.size == (32, 32) for image in first)
    assert first == again
    assert first[0] != first[1]


def test_a_studio_with_a_pipeline_keeps_what_it_made(pipeline: Path, tmp_path: Path):
    orders = [Order("1", "image", number, "a cat") for number in range(3)]
    studio = Studio(DiffusersPictures(str(pipeline), SETTINGS), load_prompts()["picture"], Store(tmp_path))
    made, rejections, unfinished = studio.make(orders)
    assert (len(made), rejections, unfinished) == (3, [], {})
    assert studio.cost.fresh == 3
    later = Studio(DiffusersPictures(str(pipeline), SETTINGS), load_prompts()["picture"], Store(tmp_path))
    assert later.make(orders)[0] == made
    assert later.cost.fresh == 0
    made[1].path.unlink()  # a record without its picture is no record
    assert later.make(orders)[0] == made
    assert later.cost.fresh == 1


def test_a_folder_that_is_no_pipeline(tmp_path: Path):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    with pytest.raises(MissingDataError, match="there is no folder"):
        picture_model(str(tmp_path / "none"), SETTINGS)
    with pytest.raises(MissingDataError, match="cannot be read as a text-to-image pipeline"):
        picture_model(str(tmp_path), SETTINGS).make([Wanted("a", "a", 0)])


def test_what_names_no_picture_model():
    with pytest.raises(InputError, match="names no model"):
        picture_model("http://localhost/v1", SETTINGS)
    with pytest.raises(InputError, match="nothing is given"):
        picture_model(" ", SETTINGS)
    assert isinstance(picture_model("http://localhost/v1#m", SETTINGS), EndpointPictures)


def test_an_endpoint_that_refuses_and_breaks_down(tmp_path: Path):
    orders = [Order("1", "image", number, "a red square") for number in range(12)]
    with serving(Faults(unpaintable=0.4, limited=0.3, broken=0.3)) as server:
        model = EndpointPictures(server.url, "painter", PictureSettings(size=32, retries=3))
        made, rejections, unfinished = Studio(model, load_prompts()["picture"], Store(tmp_path)).make(orders)
    assert made
    assert rejections
    assert not unfinished
    assert len(made) + len(rejections) == 12
    assert {rejection.reason[:28] for rejection in rejections} == {"refused by the picture model"}


def test_nobody_at_the_address(tmp_path: Path):
    model = EndpointPictures("http://127.0.0.1:9/v1", "painter", PictureSettings(retries=0))
    studio = Studio(model, load_prompts()["picture"], Store(tmp_path))
    with pytest.raises(MissingDataError, match=r"nobody answers at http://127\.0\.0\.1:9/v1"):
        studio.make([Order("1", "image", 0, "a cat")])


@pytest.mark.icons
def test_drawings_say_whether_they_are_right():
    try:
        model = IconPictures.of("wrong=0.4", PictureSettings(size=64))
    except MissingDataError:
        pytest.skip("the data set icons is not built: vledit data build icons")
    concepts = [c for c in model.data.concepts_of("things") if len(model.data.drawings_of(c.id)) >= 5][:40]
    made = [(c, model.make([Wanted("", f"a {c.name}, on a table", seed)])[0]) for c in concepts for seed in range(5)]
    share = sum(not one.right for _, one in made) / len(made)
    assert 0.25 < share < 0.55
    right = IconPictures(PictureSettings(size=64))
    assert all(right.make([Wanted("", c.name, 3)])[0].right for c in concepts)
    first, second = (right.make([Wanted("", concepts[0].name, seed)])[0].image for seed in (0, 1))
    assert first != second  # another hand
    (none,) = model.make([Wanted("", "a thing that nobody drew", 0)])
    assert none.image is None
    assert "no drawing" in none.refused


def test_wrong_must_be_a_share():
    for text in ("icons:wrong=1.5", "icons:wrong=x", "icons:right=1"):
        with pytest.raises((InputError, MissingDataError)):
            picture_model(text, SETTINGS)
