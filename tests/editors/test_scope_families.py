"""The key of `scope=last` in every family: the row's own, whatever the padding and the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vlm.models import FAMILIES, QUESTIONS, picture, tiny
from vledit.editors import reach

LONG = "A much longer question than the others, " * 3 + "is it not?"
ASKED = [(picture(1), QUESTIONS[0]), (picture(2), LONG), (None, QUESTIONS[1]), (picture(3), QUESTIONS[2])]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_prompt_token_is_the_rows_own(family):
    vlm = tiny(family)
    site = vlm.resolve_site(vlm.default_site)
    images, questions = [image for image, _ in ASKED], [question for _, question in ASKED]
    with torch.inference_mode():
        together = reach.read(vlm, site, images, questions)
        alone = np.concatenate([reach.read(vlm, site, [image], [text]) for image, text in ASKED])
        turned = reach.read(vlm, site, images[::-1], questions[::-1], rows=2)[::-1]
    scale = np.abs(alone).max()
    np.testing.assert_allclose(together, alone, atol=2e-4 * scale)
    np.testing.assert_allclose(turned, alone, atol=2e-4 * scale)
    apart = np.linalg.norm(alone[:, None] - alone[None], axis=-1)[~np.eye(len(ASKED), dtype=bool)]
    assert (
        apart.min() > 20 * np.linalg.norm(together - alone, axis=-1).max()
    )  # requests are told apart, whatever rounds
