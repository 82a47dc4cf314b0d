"""The editing methods by name; each is imported when it is asked for.  Other packages add theirs by entry point."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import InputError, UnknownNameError
from ..vlm.site import BLOCK, Site, expert_of

_OWN = {
    "balancedit": (
        "vledit.editors.balancedit:BalancEdit",
        "codebook entry with an influence radius (BalancEdit, ICML 2025)",
    ),
    "lte": (
        "vledit.editors.lte:Lte",
        "the model learns to obey a descriptor of the edit in its prompt (Jiang et al., ACL 2024)",
    ),
    "mend": (
        "vledit.editors.mend:Mend",
        "a hypernetwork turns the answer's gradient into the edit, always on (Mitchell et al., ICLR 2022)",
    ),
    "mend_adv": ("vledit.editors.mend_adv:MendAdv", "mend with the adversarial locality loss of De-VQA, always on"),
    "ft_v": ("vledit.editors.ft_v:VisionFineTune", "fine-tune of the vision side, always on (VLKEB, De-VQA)"),
    "grace": (
        "vledit.editors.grace:Grace",
        "key, value and radius at one layer; the value takes the last prompt token's place (NeurIPS 2023)",
    ),
    "ike": ("vledit.editors.ike:Ike", "the fact, and demonstrations, stand in the prompt (Zheng et al., EMNLP 2023)"),
    "hice": (
        "vledit.editors.hice:Hice",
        "in-context editing behind a gate in closed form (Ma et al., ComprehendEdit, AAAI 2025)",
    ),
    "serac": (
        "vledit.editors.serac:Serac",
        "scope classifier, memory and counterfactual model (Mitchell et al., ICML 2022)",
    ),
    "lemoe": (
        "vledit.editors.lemoe:Lemoe",
        "a low-rank expert per edit, found by its own key, or the base (Wang & Li, EMNLP 2024)",
    ),
    "liveedit": (
        "vledit.editors.liveedit:LiveEdit",
        "generated low-rank experts, a visual filter and textual weights (Chen et al., CVPR 2025)",
    ),
    "recipe": (
        "vledit.editors.recipe:Recipe",
        "the edit as embeddings before the question, a sentinel that gates them (Chen et al., EMNLP 2024)",
    ),
    "t_patcher": (
        "vledit.editors.t_patcher:TPatcher",
        "a ReLU neuron beside the last MLP for each wrong answer token, always on (Huang et al., ICLR 2023)",
    ),
    "ft": ("vledit.editors.ft:FineTune", "plain fine-tune of one site, always on (BalancEdit App. E)"),
}


def known() -> dict[str, str]:
    """Name → one line about it, own methods first."""
    found = {name: about for name, (_, about) in _OWN.items()}
    for point in entry_points(group="vledit.editors"):
        found.setdefault(point.name, f"from {point.dist.name if point.dist else 'another package'}")
    return found


def editor_class(name: str) -> Any:
    """The class of the editor `name`.  Raises: UnknownNameError, suggesting the near miss."""
    if name in _OWN:
        module, _, attribute = _OWN[name][0].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group="vledit.editors"):
        if point.name == name:
            return point.load()
    raise UnknownNameError("editor", name, known())


def editor(name: str, **settings: Any) -> Any:
    """An editor ready for use.  Raises: UnknownNameError for an unknown editor or setting, InputError for an unfit value."""
    cls = editor_class(name)
    config = cls.Config.from_settings(settings)
    refuse_an_expert(cls, getattr(config, "site", "") or "")
    return cls(config)


def refuse_an_expert(cls: Any, site: str) -> None:
    """Raises: InputError where an edit that is found by a key would act at a named expert of a mixture."""
    if cls.gated and site and expert_of(Site.parse(site).role) is not None:
        raise InputError(
            f"site: '{site}' is one expert of a mixture. {cls.name} decides by a key whether an edit acts, and what is decided "
            "would hold only where the router sends the token to this expert. Edit the whole block, "
            f"'{site.partition('.')[0]}.{BLOCK}', or take an editor that writes weights (ft, mend, t_patcher)."
        )
