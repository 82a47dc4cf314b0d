"""The models that can be edited: every family with its published checkpoints and the results of the contract suite for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MissingDataError
from .estimate import short_names
from .vlm import registry

if TYPE_CHECKING:
    from .vlm.families import Family

PROVEN = Path(__file__).parent / "vlm" / "proven.json"
"""Written by the contract suite's own command, together with `docs/backbones.md`."""
NOT_RUN = "not run"


@dataclass(frozen=True)
class Model:
    """One row of the catalogue.

    Args:
        name: what `load` takes; "" where only a folder of one's own can be given.
        aliases: other names for the same.
        family, title: of the family.
        source: where the weights come from.
        parameters: how many, where that is known.
        contract: what the contract suite said of the family: "passed", "failed", ..., or "not run".
        date, transformers: when, and with which version of transformers.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    title: str
    source: str
    parameters: int | None
    contract: str
    date: str
    transformers: str

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def models(proven_file: Path | None = None) -> list[Model]:
    """All of them, the embedded one first; a checkpoint with several names is one row.

    Raises:
        MissingDataError: the file of what is proven is damaged.
    """
    known = proven(proven_file)
    names = sorted(registry.family_names(), key=lambda name: (name != "pocket", name))
    return [model for name in names for model in _of_family(registry.family(name), known.get(name, {}))]


def _of_family(family: Family, state: dict[str, Any]) -> list[Model]:
    sizes = {one.hub_id: one for one in family.published}
    said = (str(state.get("contract", NOT_RUN)), str(state.get("date", "")), str(state.get("transformers", "")))

    def row(name: str, aliases: tuple[str, ...], source: str, parameters: int | None) -> Model:
        return Model(name, aliases, family.name, family.title, source, parameters, *said)

    if family.name == "pocket":
        count = next((one.parameters for one in family.published), None)
        return [row("pocket", (), "embedded, assembled at first use", count)]
    found = []
    for hub_id in dict.fromkeys([*family.checkpoints.values(), *sizes]):
        one = sizes.get(hub_id)
        shorts = [*short_names(family, hub_id), *(one.names if one is not None else ())]
        name, *aliases = dict.fromkeys(shorts or [hub_id])
        source = f"Hugging Face: {hub_id}"
        if one is not None and one.convert is not None:
            source = f"a folder made by `vledit convert {one.convert}`"
        found.append(row(name, tuple(aliases), source, None if one is None else one.parameters))
    return found or [row("", (), "a local folder", None)]


def proven(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """What the contract suite last said: {family: {"contract": "passed", "date": ..., "transformers": ...}}; {} if it never ran.

    Raises:
        MissingDataError: the file is damaged.
    """
    path = path or PROVEN
    if not path.is_file():
        return {}
    try:
        return {str(name): dict(row) for name, row in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise MissingDataError(f"'{path}' is damaged ({error}); run the contract suite's command again.") from error
