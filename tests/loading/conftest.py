from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vlm.models import build
from vledit.vlm import VLM

FAMILIES = ("blip2", "minigpt4", "pocket")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, VLM]]:
    """By family: the folder of a tiny model and the model that was saved there; tests must not change either."""
    made: dict[str, tuple[Path, VLM]] = {}

    def get(family: str) -> tuple[Path, VLM]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            vlm = build(family)
            vlm.model.save_pretrained(folder)
            vlm.processor.save_pretrained(folder)
            made[family] = (folder, vlm)
        return made[family]

    return get
