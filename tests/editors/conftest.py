"""Editors are tested on tiny random models of every family: only mechanics, no meaning."""

import pytest
import torch

from tests.vlm.models import FAMILIES, tiny

torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def vlm(request):
    return tiny(request.param)
