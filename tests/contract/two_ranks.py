"""One of two processes that hold a tiny LLaVA together, loaded by transformers with tensor parallelism.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.contract.two_ranks FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

from tests.vlm.models import build
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.vlm import VLM

from .rows import EDITORS, REQUEST, UNRELATED, logits

EDITS = (("balancedit-full", ""), ("balancedit-span", ""), ("balancedit-full", "-1.mlp"), ("ft", "-2.mlp.out"))


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    plain = build("llava", hidden_size=64, intermediate_size=128)
    if os.environ["RANK"] == "0":
        plain.model.save_pretrained(folder)
    distributed.barrier()
    parallel = DistributedConfig(tp_plan="auto", tp_size=distributed.get_world_size())
    loaded = AutoModelForImageTextToText.from_pretrained(folder, distributed_config=parallel)
    vlm = VLM(loaded, plain.processor, plain.family)
    assert vlm.layers[-1].mlp.down_proj.weight.to_local().shape == (64, 64)  # half of its 128 inputs
    assert vlm.fingerprint == plain.fingerprint
    asked = REQUEST.image, REQUEST.question
    model, alone = EditedModel(vlm), EditedModel(plain)
    before, far = logits(model, *asked), logits(model, *UNRELATED)
    torch.testing.assert_close(before, logits(alone, *asked), rtol=0, atol=1e-4)
    for name, site in EDITS:
        row = EDITORS[name]
        settings = {**row.settings, **({"site": site} if site else {})}
        edit = model.edit(REQUEST, row.editor, **settings)
        assert model.answer(*asked).text == REQUEST.answer, name
        if edit.entry is not None:
            assert torch.equal(logits(model, *UNRELATED), far)
        by_rank = [torch.empty_like(before) for _ in range(distributed.get_world_size())]
        distributed.all_gather(by_rank, logits(model, *asked))
        assert torch.equal(*by_rank), name
        model.remove(edit.id)
        if edit.entry is not None:
            model.purge(edit.id)
        assert torch.equal(logits(model, *asked), before)
    with pytest.raises(InputError, match="spread over the ranks"):
        model.edit(REQUEST, site="-1.mlp.up")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
