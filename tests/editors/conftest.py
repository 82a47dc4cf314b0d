"""Editors are tested on tiny random models of some families: only mechanics, no meaning.  tests/contract has them all."""

import pytest

from tests.vlm.models import tiny


@pytest.fixture(params=("pocket", "blip2", "minigpt4", "qwen2_5_vl", "internvl"))
def vlm(request):
    return tiny(request.param)
