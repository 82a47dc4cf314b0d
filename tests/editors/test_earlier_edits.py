"""A later edit leaves what an earlier one wrote as it is."""

from __future__ import annotations

from tests.evaluate.small import BALANCED, case
from tests.vlm.models import tiny
from vledit.editors.edited_model import EditedModel


def test_radii_and_keys_of_earlier_edits_stay():
    model = EditedModel(tiny("pocket"))
    first = model.edit(case(0).request, BALANCED.editor, **BALANCED.settings)
    assert first.entry is not None
    before = [(scope.radius, scope.key.tobytes()) for scope in model.codebook.get(first.id).scopes]
    model.edit(case(1).request, BALANCED.editor, **BALANCED.settings)
    assert [(scope.radius, scope.key.tobytes()) for scope in model.codebook.get(first.id).scopes] == before
