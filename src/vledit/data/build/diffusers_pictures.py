"""Pictures by a text-to-image pipeline of diffusers; needs `pip install 'vledit[diffusion]'`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vledit.data.build.picture_models import Made, PictureSettings, Wanted
from vledit.errors import MissingDataError


class DiffusersPictures:
    """Makes `batch` pictures at once, each from its own seed; the pipeline is loaded when the first is wanted.

    Args:
        name: a folder or a Hugging Face id of a pipeline that `AutoPipelineForText2Image` reads.

    A picture depends on its prompt and seed, and in the last bits on the batch it is made in; kept pictures do not change.
    """

    threads = 1
    licence = "as the pipeline's model card says"

    def __init__(self, name: str, settings: PictureSettings):
        if find_spec("diffusers") is None:
            raise MissingDataError(
                "image-model: the package diffusers is not installed. Install it: pip install 'vledit[diffusion]'."
            )
        if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise MissingDataError(f"image-model: there is no folder '{name}'.")
        self.name, self.settings, self.together = name, settings, settings.batch
        self.about = {
            "pipeline": Path(name).name if Path(name).expanduser().is_dir() else name,
            "size": settings.size,
            "steps": settings.steps,
            "dtype": settings.dtype,
        }
        self._pipeline: Any = None

    def make(self, wanted: list[Wanted]) -> list[Made]:
        """See `PictureModel`.  A picture that the pipeline's safety checker blackens is refused."""
        import torch

        s, pipeline = self.settings, self._loaded()
        result = pipeline(
            prompt=[one.prompt for one in wanted],
            height=s.size,
            width=s.size,
            num_inference_steps=s.steps,
            generator=[torch.Generator("cpu").manual_seed(one.seed) for one in wanted],
        )
        unsafe = getattr(result, "nsfw_content_detected", None) or [False] * len(wanted)
        return [
            Made(None, "blackened by the pipeline's safety checker") if bad else Made(image.convert("RGB"))
            for image, bad in zip(result.images, unsafe, strict=True)
        ]

    def _loaded(self) -> Any:
        if self._pipeline is None:
            from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image

            from vledit.loading import parse_device, parse_dtype

            device, dtype = parse_device(self.settings.device), parse_dtype(self.settings.dtype)
            try:
                pipeline = AutoPipelineForText2Image.from_pretrained(
                    str(Path(self.name).expanduser()), torch_dtype=dtype
                )
            except MemoryError:
                raise
            except Exception as error:  # damaged or foreign folders raise whatever their readers raise
                lines = str(error).strip().splitlines()
                raise MissingDataError(
                    f"image-model: '{self.name}' cannot be read as a text-to-image pipeline: "
                    f"{lines[0] if lines else type(error).__name__}"
                ) from error
            pipeline.set_progress_bar_config(disable=True)
            self._pipeline = pipeline.to(device)
        return self._pipeline
