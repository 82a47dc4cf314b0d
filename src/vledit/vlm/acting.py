"""What acts on a batch while the model runs: changes at points of it, row by row, decided beforehand or inside the prefill.

A *point* is written as text: "29.mlp.out", "29.mlp", "20.layer" (sites of the language model, `site.Site`) or
"vision:<path>" (a linear on the vision side, by its path below the Hugging Face model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import InputError
from .anatomy import module_at
from .encoded import CACHE, Encoded
from .hooks import site_changed

if TYPE_CHECKING:
    from .base import VLM

VISION = "vision:"
"""Points that begin so lie on the vision side: they act on every row of a batch, or on none."""
FROM_LAST = "from_last_prompt"
"""`Change.tokens`: the change acts on the last prompt token and on what follows it."""
LAST = "last_prompt"
"""`Change.tokens`: the change acts on the last prompt token alone."""


@runtime_checkable
class Change(Protocol):
    """What an edit does at a point.  A `Transformation` is one: it adds `delta(x)`.

    Attributes:
        tokens: optional; "all" (default), `FROM_LAST` or `LAST`.
    """

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        """What enters the point, (N, in), and what leaves it, (N, out) → what leaves it instead, (N, out)."""
        ...


Acting = Mapping[str, Any]
"""What acts on one row: point → `Change` or `Transformation`."""
Rows = Sequence[Acting | None]


def is_plain(change: Any) -> bool:
    """Whether the change adds something at every token (a `Transformation`): then its tail alone need be run."""
    return not hasattr(change, "apply") and getattr(change, "tokens", "all") == "all"


def applied(change: Any, x: Tensor, y: Tensor) -> Tensor:
    """(N, in), (N, out) → (N, out)."""
    return change.apply(x, y) if hasattr(change, "apply") else y + change.delta(x).to(y.dtype)


def is_vision(point: str) -> bool:
    return point.startswith(VISION)


@dataclass(frozen=True)
class Read:
    """What a memory must see of a prompt to decide.

    Args:
        site: a site of the language model, e.g. "29.mlp.out".
        pool: (B, T, width) and the batch's masks → (B, ...), from the prompt's tokens alone.
        output: read what leaves the site instead of what enters it.
        name: tells reads at one site apart; reads of equal site, output and name are the same.
    """

    site: str
    pool: Callable[[Tensor, Encoded], Tensor]
    output: bool = False
    name: str = ""

    @property
    def key(self) -> tuple[str, bool, str]:
        return (self.site, self.output, self.name)


class _Columns:
    """Counts how many columns of a row the language model has seen before the pass that runs."""

    def __init__(self) -> None:
        self.start = 0

    @contextmanager
    def counted(self, decoder: nn.Module) -> Iterator[_Columns]:
        def note(_module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
            past = kwargs.get(CACHE)
            self.start = 0 if past is None else int(past.get_seq_length())

        handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield self
        finally:
            handle.remove()


def _where(tokens: str, last: Tensor, start: int, length: int) -> Tensor | None:
    """(B, length) bool: on which of these columns a change acts; None: on all.  last: (B,) column of the last prompt token."""
    if tokens == "all":
        return None
    columns = torch.arange(start, start + length, device=last.device)[None]
    return columns == last[:, None] if tokens == LAST else columns >= last[:, None]


def _groups(rows: Rows, point: str, beams: int) -> list[tuple[Any, list[int]]]:
    """The rows of each change at a point, so that it is computed once; row i stands at i·beams … of the batch."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for row, acting in enumerate(rows):
        change = (acting or {}).get(point)
        if change is not None:
            found.setdefault(id(change), (change, []))[1].extend(range(row * beams, (row + 1) * beams))
    return list(found.values())


STACKED = 4
"""From so many different changes on, those of low rank are computed as one batched product."""


def _stacked(groups: list[tuple[Any, list[int]]], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows (n,), inputs (n, r, in) and directions (n, out, r) of low-rank changes, smaller ranks filled up with zeros.

    None where there are few changes, or some that are not of low rank.
    """
    if len(groups) < STACKED or not all(is_plain(one) and hasattr(one, "directions") for one, _ in groups):
        return None
    rank = max(one.inputs.shape[0] for one, _ in groups)
    pad = torch.nn.functional.pad
    inputs = torch.stack([pad(one.inputs, (0, 0, 0, rank - len(one.inputs))) for one, _ in groups])
    directions = torch.stack([pad(one.directions, (0, rank - one.directions.shape[1])) for one, _ in groups])
    counts = torch.tensor([len(members) for _, members in groups], device=device)
    rows = torch.tensor([row for _, members in groups for row in members], device=device)
    return rows, inputs.repeat_interleave(counts, 0), directions.repeat_interleave(counts, 0)


def change_rows(
    rows: Rows,
    point: str,
    x: Tensor,
    y: Tensor,
    last: Tensor,
    start: int,
    kept: dict[tuple[str, int], Any] | None = None,
) -> Tensor:
    """The point's output with what acts on each row.

    Args:
        rows: one per row of the batch, or per n rows of it (beams).
        x, y: (B, T, in) and (B, T, out).
        last: (B / n,) column of each row's last prompt token.
        start: column of the first of the T tokens.
        kept: what is worked out once for all passes over these rows.
    """
    beams, rest = divmod(len(x), len(rows))
    if rest or not beams:
        raise InputError(f"transforms: {len(rows)} given for a batch of {len(x)} rows. Give one (or None) per row.")
    kept = {} if kept is None else kept
    if (point, beams) not in kept:
        groups = _groups(rows, point, beams)
        indexed = [(one, torch.tensor(members, device=y.device)) for one, members in groups]
        kept[point, beams] = indexed, _stacked(groups, y.device)
    groups, stacked = kept[point, beams]
    if stacked is not None:
        index, inputs, directions = stacked
        found = (x[index].to(inputs.dtype) @ inputs.mT) @ directions.mT
        return y.index_add(0, index, found.to(y.dtype))
    for change, index in groups:
        before = y[index]
        given, flat = x[index].reshape(-1, x.shape[-1]), before.reshape(-1, y.shape[-1])
        after = applied(change, given, flat).reshape(before.shape).to(y.dtype)
        where = _where(getattr(change, "tokens", "all"), last.to(y.device)[index // beams], start, y.shape[1])
        if where is not None:
            after = torch.where(where[..., None], after, before)
        y = y.index_copy(0, index, after)
    return y


def points_of(rows: Rows) -> list[str]:
    """All points at which something acts on some row, sorted."""
    return sorted({point for acting in rows for point in acting or ()})


def last_columns(encoded: Encoded) -> Tensor:
    """(B,) column of each row's last prompt token."""
    return encoded.prompt_mask.shape[1] - 1 - encoded.prompt_mask.flip(1).int().argmax(1)


@contextmanager
def acting(vlm: VLM, rows: Rows, encoded: Encoded) -> Iterator[None]:
    """Within the context, whatever is run on this batch (a pass, `generate`), each row computes so.

    A row on which nothing acts keeps the base's bits.  Raises: InputError for unknown points, or vision points that do not act
    on all rows alike.
    """
    with prompt_acting(vlm, rows, encoded), layers_acting(vlm, rows, encoded):
        yield


@contextmanager
def prompt_acting(vlm: VLM, rows: Rows, encoded: Encoded) -> Iterator[None]:
    """The part of `acting` below the decoder layers: the vision side, and embeddings in the prompt."""
    with ExitStack() as stack:
        stack.enter_context(vlm.lock)
        for point in points_of(rows):
            if is_vision(point):
                stack.enter_context(_vision_changed(vlm, rows, point))
        stack.enter_context(soft_prompts(vlm, encoded))
        yield


@contextmanager
def layers_acting(vlm: VLM, rows: Rows, encoded: Encoded) -> Iterator[None]:
    """The part of `acting` in the decoder layers; all that a `head` on the batch's trunk needs.

    A trunk must be made outside of it, at or below the lowest layer where something acts (`lowest`).
    """
    points = [point for point in points_of(rows) if not is_vision(point)]
    with ExitStack() as stack:
        stack.enter_context(vlm.lock)
        if points:
            last, columns = last_columns(encoded), _Columns()
            if any(getattr(change, "tokens", "all") != "all" for one in rows for change in (one or {}).values()):
                stack.enter_context(columns.counted(vlm.anatomy.decoder))
            for point in points:
                stack.enter_context(_site_acting(vlm, rows, point, last, columns))
        yield


def lowest(vlm: VLM, points: Iterable[str]) -> int:
    """The lowest decoder layer of some points; the last one where none of them is in the language model."""
    layers = [vlm.resolve_site(point).layer for point in points if not is_vision(point)]
    return min(layers, default=vlm.n_layers - 1)


def _site_acting(vlm: VLM, rows: Rows, point: str, last: Tensor, columns: _Columns) -> Any:
    kept: dict[tuple[str, int], Any] = {}
    change = lambda x, y: change_rows(rows, point, x, y, last, columns.start, kept)  # noqa: E731
    return site_changed(vlm, vlm.resolve_site(point), change)


@contextmanager
def _vision_changed(vlm: VLM, rows: Rows, point: str) -> Iterator[None]:
    changes = {id((one or {}).get(point)): (one or {}).get(point) for one in rows}
    if len(changes) > 1:
        raise InputError(
            f"{point}: a change on the vision side acts on all rows of a batch alike; ask such rows apart."
        )
    (change,) = changes.values()
    with vision_changed(vlm, point, change):
        yield


@contextmanager
def vision_changed(vlm: VLM, point: str, change: Any, now: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within the context, a linear on the vision side computes with a change, for every row.

    Args:
        now: asked at every call; where it says no, the linear computes as it is.
    """

    def add(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not now():
            return output
        flat = output.reshape(-1, output.shape[-1])
        return applied(change, args[0].reshape(-1, args[0].shape[-1]), flat).reshape(output.shape)

    handle = module_at(vlm.model, point.removeprefix(VISION)).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


# --- decisions inside the prefill ---------------------------------------------------------------------------------------

Decide = Callable[[Mapping[tuple[str, bool, str], Tensor]], Rows]


@contextmanager
def deciding(
    vlm: VLM,
    encoded: Encoded,
    reads: Sequence[Read],
    points: Sequence[str],
    decide: Decide,
    skip: Sequence[bool],
) -> Iterator[None]:
    """As `acting`, but what acts is decided in the first pass over the prompts, at the site where the keys are read.

    The first pass must hold the whole prompts (no chunked prefill); what is decided is kept for all later ones.

    Args:
        reads: all at one site.
        points: where something may act once it is decided; none of them below that site.
        decide: from what was read, by `Read.key`, to what acts on each row; called once.
        skip: rows for which something else was decided already: nothing acts on them here.

    Raises: InputError where reads are at several sites, or a point lies below them; RuntimeError where the block ended without
        a pass.
    """
    (site_text,) = {read.site for read in reads} if len({read.site for read in reads}) == 1 else (None,)
    if site_text is None:
        raise InputError("reads: decisions inside the prefill are made at one site; these are at several.")
    site, last, columns = vlm.resolve_site(site_text), last_columns(encoded), _Columns()
    if not all(site.known_before(vlm.resolve_site(text)) for text in points):
        raise InputError(f"points: {points} do not all lie at or above {site}, where what acts is decided.")
    batch, length = encoded.prompt_mask.shape
    state: list[Rows] = []
    kept: dict[tuple[str, int], Any] = {}

    def at_site(x: Tensor, y: Tensor) -> Tensor:
        if not state:
            if x.shape[1] < length:
                raise RuntimeError("the prompt came in pieces; decisions inside the prefill need it whole")
            beams = len(x) // batch
            with torch.no_grad():
                seen = {read.key: read.pool((y if read.output else x)[::beams, :length], encoded) for read in reads}
            state.append([None if out else found for out, found in zip(skip, decide(seen), strict=True)])
        return change_rows(state[0], str(site), x, y, last, columns.start, kept)

    with ExitStack() as stack:
        stack.enter_context(vlm.lock)
        stack.enter_context(columns.counted(vlm.anatomy.decoder))
        stack.enter_context(site_changed(vlm, site, at_site))
        for point in points:
            if vlm.resolve_site(point) != site:
                change = _later(state, point, last, columns, kept)
                stack.enter_context(site_changed(vlm, vlm.resolve_site(point), change))
        yield


def _later(
    state: list[Rows], point: str, last: Tensor, columns: _Columns, kept: dict[tuple[str, int], Any]
) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: change_rows(state[0], point, x, y, last, columns.start, kept) if state else y


# --- embeddings in the prompt -------------------------------------------------------------------------------------------


@contextmanager
def soft_prompts(vlm: VLM, encoded: Encoded) -> Iterator[None]:
    """Within the context, the tokens of `encoded.soft_mask` are embedded as `encoded.soft`, in the order of the mask."""
    if encoded.soft is None:
        yield
        return
    mask, soft = encoded.soft_mask, encoded.soft
    assert mask is not None
    batch, length = mask.shape
    place = torch.full(mask.shape, -1, device=mask.device)
    place[mask] = torch.arange(len(soft), device=mask.device)
    seen = [0]

    def put(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        ids = args[0]
        if ids.ndim != 2 or len(ids) % batch:
            return output
        start = 0 if ids.shape[1] >= length else seen[0]  # a pass without a cache begins anew each time
        if start >= length:
            return output
        some = place[:, start : start + ids.shape[1]].repeat_interleave(len(ids) // batch, 0)
        seen[0] = max(seen[0], start + ids.shape[1])
        some = torch.nn.functional.pad(some, (0, ids.shape[1] - some.shape[1]), value=-1)
        values = soft.to(output)[some.clamp(min=0)]
        return torch.where((some >= 0)[..., None], values, output)

    handle = vlm.model.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
