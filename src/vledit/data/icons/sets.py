"""The sets that the drawings come from, as data: package, licence, vendor, style.

`hand` is the vendor family: sets that one company drew are one hand, because they repeat each other
(Fluent's 3D and gradient versions are the same drawing for 80 % of concepts), so that a family stands
on one side of any split. Left out: cbi (non-commercial), icomoon-free (GPL), and artwork of Apple,
Facebook and JoyPixels' later, non-free versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["colour", "mono"]
Domain = Literal["things", "flags", "brands"]

DOMAINS: tuple[Domain, ...] = ("things", "flags", "brands")


@dataclass(frozen=True)
class IconSet:
    """One set of drawings in one npm package.

    `folder` is "" for an Iconify package (one `icons.json`), else the folder of picture files.
    `style` is what most of the set is; a single icon that says ``currentColor`` is mono in any set.
    """

    name: str
    package: str
    licence: str
    hand: str
    style: Style
    domains: tuple[Domain, ...]
    folder: str = ""


def _iconify(name: str, licence: str, hand: str, *domains: Domain, style: Style = "colour") -> IconSet:
    return IconSet(name, f"@iconify-json/{name}", licence, hand, style, domains)


SETS: tuple[IconSet, ...] = (
    _iconify("twemoji", "CC-BY-4.0", "twemoji", "things", "flags"),
    _iconify("noto", "Apache-2.0", "google", "things"),
    _iconify("noto-v1", "Apache-2.0", "google", "things"),
    _iconify("openmoji", "CC-BY-SA-4.0", "openmoji", "things", "flags"),
    _iconify("fluent-emoji", "MIT", "microsoft", "things"),
    _iconify("fluent-emoji-flat", "MIT", "microsoft", "things"),
    IconSet("fluent-emoji-3d", "@lobehub/fluent-emoji-3d", "MIT", "microsoft", "colour", ("things",), "assets"),
    _iconify("fluent-emoji-high-contrast", "MIT", "microsoft", "things", style="mono"),
    _iconify("emojione", "CC-BY-4.0", "emojione", "things", "flags"),
    _iconify("emojione-v1", "CC-BY-SA-4.0", "emojione", "things", "flags"),
    _iconify("emojione-monotone", "CC-BY-4.0", "emojione", "things", style="mono"),
    _iconify("fxemoji", "Apache-2.0", "mozilla", "things", "flags"),
    _iconify("streamline-emojis", "CC-BY-4.0", "streamline", "things", "flags"),
    _iconify("flag", "MIT", "flag-icons", "flags"),
    _iconify("circle-flags", "MIT", "circle-flags", "flags"),
    _iconify("flagpack", "MIT", "flagpack", "flags"),
    _iconify("cif", "CC0-1.0", "coreui", "flags"),
    IconSet("country-flag-icons", "country-flag-icons", "MIT", "country-flag-icons", "colour", ("flags",), "3x2"),
    IconSet("flagkit", "flagkit-web", "MIT", "flagkit", "colour", ("flags",), "svgs"),
    IconSet(
        "svg-country-flags", "svg-country-flags", "public domain", "svg-country-flags", "colour", ("flags",), "svg"
    ),
    _iconify("simple-icons", "CC0-1.0", "simple-icons", "brands", style="mono"),
    _iconify("logos", "CC0-1.0", "svg-logos", "brands"),
    _iconify("devicon", "MIT", "devicon", "brands"),
    _iconify("devicon-plain", "MIT", "devicon", "brands", style="mono"),
    _iconify("skill-icons", "MIT", "skill-icons", "brands"),
    _iconify("vscode-icons", "MIT", "vscode-icons", "brands"),
    _iconify("fa7-brands", "CC-BY-4.0", "font-awesome", "brands", style="mono"),
    _iconify("la", "MIT", "font-awesome", "brands", style="mono"),
    _iconify("cib", "CC0-1.0", "coreui", "brands", style="mono"),
    _iconify("bxl", "MIT", "boxicons", "brands", style="mono"),
    _iconify("mdi", "Apache-2.0", "material-design", "brands", style="mono"),
    _iconify("ri", "Apache-2.0", "remix", "brands", style="mono"),
    _iconify("tabler", "MIT", "tabler", "brands", style="mono"),
    _iconify("ion", "MIT", "ionicons", "brands", style="mono"),
    _iconify("mingcute", "Apache-2.0", "mingcute", "brands", style="mono"),
    _iconify("ant-design", "MIT", "ant-design", "brands", style="mono"),
    _iconify("lineicons", "MIT", "lineicons", "brands", style="mono"),
    _iconify("streamline-logos", "CC-BY-4.0", "streamline", "brands", style="mono"),
    _iconify("fontisto", "MIT", "fontisto", "brands", style="mono"),
    _iconify("uil", "Apache-2.0", "unicons", "brands", style="mono"),
    _iconify("grommet-icons", "Apache-2.0", "grommet", "brands", style="mono"),
    _iconify("raphael", "MIT", "raphael", "brands", style="mono"),
)

BY_NAME: dict[str, IconSet] = {icon_set.name: icon_set for icon_set in SETS}

FACT_PACKAGES: dict[Domain, tuple[str, ...]] = {
    "things": ("emojibase-data",),
    "flags": ("emojibase-data", "countries-list"),
    "brands": ("simple-icons",),
}
"""npm packages that carry names and facts, by the domain that reads them."""

DEMO_SETS: tuple[str, ...] = (
    "simple-icons", "logos", "devicon", "skill-icons", "fa7-brands", "la", "cib", "bxl", "ri", "tabler", "ion",
    "mingcute", "ant-design", "lineicons", "streamline-logos", "fontisto", "uil", "grommet-icons", "raphael",
)  # fmt: skip
"""What the demo needs (`--only demo`): brand marks, less the sets that are large for the few they add."""


def sets_of(domain: Domain) -> tuple[IconSet, ...]:
    """Return the sets that draw things of `domain`, in the order of `SETS`."""
    return tuple(icon_set for icon_set in SETS if domain in icon_set.domains)
