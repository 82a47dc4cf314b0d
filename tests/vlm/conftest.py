"""One thread: the models are tiny, and the machine may be busy."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from .models import FAMILIES, tiny

torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def vlm(request):
    """The shared tiny model of each family in turn."""
    return tiny(request.param)
