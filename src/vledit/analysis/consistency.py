"""De-VQA's retrieval by question compared with retrieval by picture: how similar are the two pictures that are found?

The paper compares them with CLIP.  Here a picture's vector is the mean of its visual tokens as they enter the language model,
minus the mean over the pool, so that the component which all pictures share does not make all of them similar. Every family has
these tokens, and no further model has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..data.benchmarks import spread
from ..data.devqa import DevQA
from ..editors.features import visual_mean
from ..editors.ike import QUESTION
from ..evaluate.bootstrap import Estimate
from .ranks import bootstrapped

if TYPE_CHECKING:
    from ..vlm.base import VLM


def consistency(
    vlm: VLM, wrapper: DevQA, limit: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Estimate]:
    """Cosines of pictures, mean over edits with intervals.

    "found by question, found by picture": the paper's figure; "edited, found by question", "edited, found by picture": how near
    each is to the edited picture; "edited, drawn": what a record drawn at random gives.

    Args:
        limit: how many edits, spread evenly over the pool; 0: all.  Vectors are made of the whole pool.
        progress: called with a record's id when its picture is done.
    """
    pool = [case for case in wrapper.pool if case.request.image is not None]
    vectors = []
    for case in pool:
        vectors.append(visual_mean(vlm, [case.request.image], QUESTION).numpy())
        progress(case.id)
    matrix = np.stack(vectors)
    matrix = matrix - matrix.mean(0)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12)
    place = {case.id: number for number, case in enumerate(pool)}
    table: dict[str, dict[str, float]] = {}
    draw = np.random.default_rng(0)
    for case in spread(pool, limit):
        fit = [place[record.id] for record in wrapper.fit_records(case)]
        chosen = wrapper.choose(case).record
        if not fit or not chosen:
            continue
        own, by_question = matrix[place[case.id]], matrix[place[chosen]]
        by_picture = matrix[max(fit, key=lambda number: float(matrix[number] @ own))]
        pairs = {
            "found by question, found by picture": by_question @ by_picture,
            "edited, found by question": own @ by_question,
            "edited, found by picture": own @ by_picture,
            "edited, drawn": own @ matrix[draw.choice(fit)],
        }
        for name, value in pairs.items():
            table.setdefault(name, {})[case.id] = float(value)
    return bootstrapped(table)
