"""One thread: the models are tiny, and the machine may be busy."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(params=["blip2", "minigpt4", "pocket"])
def vlm(request):
    from models import tiny

    return tiny(request.param)
