import pytest

from .models import FIRST, tiny


@pytest.fixture(params=FIRST)
def vlm(request):
    """The shared tiny model of each family in turn."""
    return tiny(request.param)
