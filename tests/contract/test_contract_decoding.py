"""The routing of the prompt holds for the whole answer, whatever the decoding; for every family and editor.

Each is held against models whose weights really are changed: where a row fires it must say what that model says, elsewhere
what the base says, token by token and past the end of the edit's own answer.
"""

from __future__ import annotations

import pytest
import torch

from vledit.errors import InputError
from vledit.vlm.decoding import no_drafts

from .references import reference
from .rows import LONG, REQUEST, ROWS, asked, assistant, base_says, logits


def said(rows):
    """The answers' tokens: before them stands a prompt, which may be longer with an edit, and its padding."""
    return [row[-LONG["max_new_tokens"] :] for row in rows]


def held(one, cell, rows=(0, 1, 2), **settings):
    """Asserts that each of these `ROWS` is decoded as by the weights that it was routed to."""
    requests = [ROWS[row] for row in rows]
    model = one.model()
    decisions = model.route(*zip(*requests, strict=True))
    found = said(asked(model, requests, **LONG, **settings).tolist())
    base = said(base_says(cell[0], rows, tuple(settings.items())))
    changed = said(asked(reference(*cell), requests, **LONG, **settings).tolist())
    for row, decision in enumerate(decisions):
        acts = decision.fired or one.always
        assert found[row] == (changed if acts else base)[row]
    if rows[0] == 0 and one.edit.report.trained:
        assert base[0] != changed[0]


def refused(one, **settings):
    """Asserts that a model with which no draft can be taken back says so."""
    with pytest.raises(InputError, match="no assisted decoding"):
        asked(one.model(), ROWS[:1], **LONG, **settings)


def test_a_mixed_batch_is_its_rows_one_by_one(one):
    """The same tokens, and logits within 1e-4, for rows of other pictures, without one, and of other lengths."""
    model = one.model()
    together = asked(model, **LONG, return_dict_in_generate=True, output_logits=True)
    steps = torch.stack(together.logits, 1)
    for row, request in enumerate(ROWS):
        alone = logits(model, *request, tokens=LONG["max_new_tokens"])
        own = steps[row, : len(alone)]  # MiniGPT-4 ends an answer with text, and is done sooner when alone
        assert torch.equal(own.argmax(-1), alone.argmax(-1))
        assert torch.allclose(own, alone, atol=1e-4)


def test_greedy_decoding_keeps_the_routing(one, cell):
    """Greedy decoding with a cache, rows that fire and rows that do not in one batch."""
    held(one, cell)


def test_the_cache_changes_nothing(one, cell):
    """Without a cache the same tokens, and logits within 1e-4."""
    held(one, cell, use_cache=False)
    model = one.model()
    runs = []
    for use in (True, False):
        out = asked(model, **LONG, use_cache=use, return_dict_in_generate=True, output_logits=True)
        runs.append(torch.stack(out.logits, 1))
    assert torch.equal(runs[0].argmax(-1), runs[1].argmax(-1))
    assert torch.allclose(*runs, atol=1e-4)


def test_beams_keep_the_routing(one, cell):
    """Beam search with three beams per row."""
    held(one, cell, num_beams=3)


def test_a_static_cache_keeps_the_routing(one, cell):
    """`cache_implementation="static"`."""
    held(one, cell, cache_implementation="static")


def test_chunked_prefill_keeps_the_routing(one, cell):
    """A prompt with a picture, five tokens at a time, gives what it gives in one piece."""
    model = one.model()
    for row in (0, 1):
        held(one, cell, (row,), prefill_chunk_size=5)
        whole = asked(model, [ROWS[row]], **LONG)
        assert torch.equal(asked(model, [ROWS[row]], **LONG, prefill_chunk_size=5), whole)


def test_assisted_decoding_keeps_the_routing(one, cell):
    """A second model proposes the base's tokens; what is accepted is what the edited model says by itself. Models with
    recurrent layers or cross attention to pictures refuse, as transformers does."""
    if no_drafts(one.vlm):
        refused(one, assistant_model=assistant(cell[0]))
        return
    for request in ROWS[:2]:
        model = one.model()
        alone = asked(model, [request], **LONG)
        assert torch.equal(asked(model, [request], **LONG, assistant_model=assistant(cell[0])), alone)
    with pytest.raises(InputError, match="one row"):
        asked(model, ROWS[:2], **LONG, assistant_model=assistant(cell[0]))


def test_prompt_lookup_keeps_the_routing(one, cell):
    """Proposals are looked up in the prompt; what is accepted is what the edited model says by itself. Models with
    recurrent layers or cross attention to pictures refuse, as transformers does."""
    if no_drafts(one.vlm):
        refused(one, prompt_lookup_num_tokens=3)
        return
    for row in (0, 1):
        held(one, cell, (row,), prompt_lookup_num_tokens=3)
        model = one.model()
        alone = asked(model, [ROWS[row]], **LONG)
        assert torch.equal(asked(model, [ROWS[row]], **LONG, prompt_lookup_num_tokens=3), alone)


def test_one_verified_pass_is_what_generate_gives(one):
    """Teacher forcing says of an answer what generating it would have shown; routed on the prompt alone."""
    model = one.model()
    images, questions = zip(*ROWS, strict=True)
    texts = [answer.text for answer in model.answers(images, questions, LONG["max_new_tokens"])]
    if one.edit.report.trained:
        assert texts[0] == REQUEST.answer
    for candidate in (REQUEST.answer, "a cat", "nothing at all"):
        verified = model.verify(images, questions, [candidate] * len(ROWS))
        assert verified.exact.tolist() == [text == candidate for text in texts]
