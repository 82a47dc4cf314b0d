"""The census: every image-text-to-text type of the installed transformers, what can be edited of it, or why it cannot.

Each type's default configuration is saved into a folder, and `vledit models --check` looks at that folder; there are no weights.
`docs/models_census.json` holds what was found, `docs/models_census.md` says it to people.

    .venv/bin/python benchmarks/census.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models_census.md"
TWIN = ROOT / "docs" / "models_census.json"
DEFAULT = "its default configuration builds no model (a checkpoint's own may): "


def types() -> dict[str, str]:
    """`model_type` → class name, as transformers maps them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return dict(sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()))


def row(kind: str, model_class: str) -> dict[str, Any]:
    """What `vledit models --check FOLDER` finds in a folder with the default configuration of one type."""
    from transformers import CONFIG_MAPPING

    from vledit.checking import check
    from vledit.vlm.site import LAYER

    with tempfile.TemporaryDirectory() as folder:
        CONFIG_MAPPING[kind]().save_pretrained(folder)
        seen = check(folder)
    found: dict[str, Any] = {"class": model_class, "family": seen.family or None, "default_site": None, "sites": {}}
    if not seen.fits:
        return found | {"reason": _short(seen.reason)}
    return found | {
        "reason": None,
        "default_site": seen.default_site,
        "sites": {role: len(layers) for role, layers in seen.sites.items() if role != LAYER},
        "layers": seen.layers,
        "recurrent": len(seen.recurrent),
        "decoder": seen.decoder,
    }


def census() -> dict[str, Any]:
    """All of them, and with which transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "transformers": transformers.__version__,
            "types": {kind: row(kind, name) for kind, name in types().items()},
        }


def needs_a_package(one: dict[str, Any]) -> bool:
    """Whether a type could not be built for want of a package; that differs from machine to machine."""
    return "package that is not installed" in (one["reason"] or "")


def _short(reason: str) -> str:
    """A reason without what is no news on this page."""
    if "can be built: " in reason:
        return DEFAULT + reason.partition("can be built: ")[2]
    for mark in (" Known families", " Take a checkpoint", " You can install"):
        reason = reason.partition(mark)[0]
    return reason.removeprefix("model: ")


def page(found: dict[str, Any], date: str) -> str:
    """The document for what `census` found."""
    rows = found["types"]
    with_site = {kind: one for kind, one in rows.items() if one["sites"]}
    known = [kind for kind, one in with_site.items() if one["family"] != "generic"]
    lines = [
        "# Every image-text model of transformers: what can be edited",
        "",
        "<!-- written by benchmarks/census.py; do not edit -->",
        "",
        f"transformers {found['transformers']} names {len(rows)} types for image-text-to-text. The default",
        "configuration of each was saved into a folder, and `vledit models --check` looked at that folder "
        f"(`benchmarks/census.py`, {date}).",
        "",
        f"**{len(with_site)} of {len(rows)} have a site**: {len(known)} through a family of their own, which the contract suite",
        "runs on tiny models ([backbones](backbones.md)), the others through the generic family, which warns of what it assumes.",
        "A test builds them again and compares: a new transformers release shows up there.",
        "",
        "Sites: `block` is the site `mlp`, the whole MLP block of a layer; `linears` are `mlp.in`, `mlp.up` and `mlp.out`;",
        "`shared` are the linears of a mixture's expert that all tokens pass, `mlp.shared.in`, `.up` and `.out`;",
        "every layer has the site `layer`, too.",
        "Where not all layers have one, the number that have is given. Recurrent layers carry a state from token to token",
        "(gated delta nets, Mamba, short convolutions) instead of attending.",
        "",
        "| type | family | layers | sites | edited by default | recurrent |",
        "|---|---|---|---|---|---|",
    ]
    for kind, one in with_site.items():
        recurrent = str(one["recurrent"]) if one["recurrent"] else ""
        cells = (kind, one["family"], str(one["layers"]), _sites(one), f"`{one['default_site']}`", recurrent)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## No site", "", "| type | why |", "|---|---|"]
    lines += [f"| {kind} | {one['reason']} |".replace("\n", " ") for kind, one in rows.items() if not one["sites"]]
    return "\n".join(lines) + "\n"


def _sites(one: dict[str, Any]) -> str:
    sites, layers = one["sites"], one["layers"]
    linears = {role: count for role, count in sites.items() if role in ("mlp.in", "mlp.up", "mlp.out")}
    parts = []
    if linears:
        whole = len(linears) == 3 and len(set(linears.values())) == 1
        names = "linears" if whole else ", ".join(f"`{role}`" for role in linears)
        few = min(linears.values())
        parts.append(names if few == layers else f"{names} ({few})")
    block, shared = sites.get("mlp", 0), sites.get("mlp.shared.out", 0)
    parts.append("block" if block == layers else f"block ({block})")
    if shared:
        parts.append("shared" if shared == layers else f"shared ({shared})")
    return ", ".join(parts)


def main() -> int:
    found = census()
    date = time.strftime("%Y-%m-%d")
    TWIN.write_text(json.dumps(found | {"date": date}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(found, date), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {TWIN.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
