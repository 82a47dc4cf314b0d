"""Attached, the Hugging Face model itself answers as the edited model does; detached, nothing is left on it."""

from __future__ import annotations

import pytest
import torch

from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.vlm import VLM

from .rows import ROWS, UNRELATED, hooks, logits, weights_digest

TOKENS = 6
ASKED = [ROWS[0], UNRELATED]
"""With pictures: the classes of BLIP-2 and its kin know no question without one."""


def called(vlm: VLM, hf_model, image, question, **settings) -> str:
    """The answer of the Hugging Face model to what its processor gives for a request."""
    encoded = vlm.encode([image], [question])
    inputs = {name: value for name, value in encoded.model_inputs.items() if name != "position_ids"}
    ends = {"eos_token_id": vlm._prompter.end_ids, "pad_token_id": vlm._prompter.end_ids[0]}
    plain = {"do_sample": False, "max_new_tokens": TOKENS, **ends, **settings}
    with torch.inference_mode():
        ids = hf_model.generate(**inputs, **plain)
    return vlm._prompter.text(ids[0, encoded.input_ids.shape[1] :].tolist())


def asked_of(vlm: VLM):
    return ASKED if vlm.anatomy.causal is not vlm.model else [*ASKED, ROWS[2]]


def test_an_attached_model_answers_as_the_edited_one(one, cell):
    model, rows = one.model(), asked_of(one.vlm)
    reason = next((reason for memory in model.memories.values() if (reason := memory.refuse_attach())), "")
    if reason:
        with pytest.raises(InputError, match=f"'{one.row.editor}' cannot work so"), model.attached():
            pass
        pytest.skip(f"does not apply: {reason}")
    expected = [model.answer(*row, TOKENS).text for row in rows]
    base = [EditedModel(one.vlm).answer(*row, TOKENS).text for row in rows]
    before, hooked, digest = logits(EditedModel(one.vlm), *ROWS[0]), hooks(one.vlm), weights_digest(one.vlm)
    with model.attached() as hf_model:
        assert hf_model is one.vlm.model
        assert [called(one.vlm, hf_model, *row) for row in rows] == expected
        assert [called(one.vlm, hf_model, *row) for row in reversed(rows)] == expected[::-1]
    assert [called(one.vlm, one.vlm.model, *row) for row in rows] == base
    assert torch.equal(logits(EditedModel(one.vlm), *ROWS[0]), before)
    assert hooks(one.vlm) == hooked
    assert weights_digest(one.vlm) == digest
