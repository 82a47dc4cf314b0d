import os

import pytest
import torch

from tests.vlm.models import tiny

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # some tests fork
torch.set_num_threads(1)


@pytest.fixture(params=("blip2", "minigpt4", "pocket", "qwen2_5_vl"))
def any_vlm(request):
    """Tiny models: OPT flattens its rows, Llama does not, and Qwen is run as a whole."""
    return tiny(request.param)


@pytest.fixture
def vlm():
    return tiny("pocket")
