import pytest
import torch

from tests.vlm.models import FAMILIES, tiny

torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def vlm(request):
    return tiny(request.param)
