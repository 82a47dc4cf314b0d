import pytest

from tests.vlm.models import tiny


@pytest.fixture(params=("blip2", "minigpt4", "pocket", "qwen2_5_vl"))
def any_vlm(request):
    """Tiny models: OPT flattens its rows, Llama does not, and Qwen is run as a whole."""
    return tiny(request.param)


@pytest.fixture
def vlm():
    return tiny("pocket")
