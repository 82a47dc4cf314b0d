"""`rank_one`: at one linear, what enters at an answer's tokens is told apart, and each gets a vector of its own.

The matrix that reads is the pseudo-inverse of what enters the linear at the n tokens that predict the answer, so that token i
reads e_i; the matrix that writes is trained.  Together they are a change of rank n, always on.  After Meng et al., ROME,
NeurIPS 2022 (a fact as a key and a value in an MLP), without its covariance.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from vledit import EditRequest
from vledit.codebook import SpanTransformation
from vledit.editors.balancedit import new_id
from vledit.editors.base import Edit, EditorConfig, EditReport, setting
from vledit.editors.fitting import margins
from vledit.errors import EditFailedError, InputError
from vledit.vlm import VLM
from vledit.vlm.pictures import open_picture


@dataclass(frozen=True)
class RankOneConfig(EditorConfig):
    """Settings; each text is what `vledit editors rank_one` shows."""

    site: str = setting("-1.mlp.out", "linear that is changed")
    steps: int = setting(100, "most steps of Adam")
    learning_rate: float = setting(0.5, "Adam's learning rate")
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} given; at least 1 is needed.")


class RankOne:
    """An always-on edit; every one is made on the base, and they add up."""

    name: ClassVar[str] = "rank_one"
    gated: ClassVar[bool] = False
    adds_up: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = RankOneConfig

    def __init__(self, config: RankOneConfig | None = None):
        self.config = config or RankOneConfig()

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Trains the vectors; no model is changed.  Raises: EditFailedError where the answer is not learnt."""
        began, config = time.perf_counter(), self.config
        site = vlm.resolve_site(config.site)
        image = None if request.image is None else open_picture(request.image)
        request = EditRequest(image, request.question, request.answer, request.rephrases, request.id)
        encoded = vlm.encode([image], [request.question], [request.answer])
        trunk = vlm.trunk(encoded, site.layer)  # the part below the site, once
        with torch.inference_mode(False), torch.enable_grad():
            entering = vlm.site_input(trunk, site)[encoded.predict_mask].float()  # (n, in)
            read = torch.linalg.pinv(entering).T  # (n, in): read @ entering.T is the identity
            write = torch.zeros(vlm.site_shape(site)[0], len(read), device=vlm.device, requires_grad=True)
            optimizer = torch.optim.Adam([write], lr=config.learning_rate)
            for taken in range(config.steps + 1):
                logits = vlm.head(trunk, site, SpanTransformation(write, read), positions=encoded.predict_mask).float()
                loss = F.cross_entropy(logits, encoded.targets)
                lead = float(margins(logits.detach(), encoded.targets).min())
                if lead >= config.margin or taken == config.steps:
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if lead <= 0:
            raise EditFailedError(
                f"answer: not learnt after {config.steps} steps. Give more steps or a larger learning_rate."
            )
        change = SpanTransformation(write.detach().clone(), read.detach().clone())
        report = EditReport(time.perf_counter() - began, taken, float(loss.detach()), lead, change.nbytes, True)
        return Edit(request.id or new_id(request), self.name, request, report, weights={str(site): change})
