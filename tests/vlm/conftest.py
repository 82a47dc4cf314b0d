import pytest

from .models import FAMILIES, tiny


@pytest.fixture(params=FAMILIES)
def vlm(request):
    """The shared tiny model of each family in turn."""
    return tiny(request.param)
