"""Icons that bear a name and show something else, found by looking at the contact sheets.

By domain, because the flag of Japan is right as a flag and wrong as the "map of Japan".
"""

from __future__ import annotations

from vledit.data.icons.sets import Domain

EXCLUDED: dict[Domain, frozenset[str]] = {
    "things": frozenset(
        {
            "streamline-emojis:turkey",  # the flag
            "streamline-emojis:japan",  # the flag
            "openmoji:scroll",  # a mouse wheel
            "fxemoji:sunglasses",  # a smiley that wears some
            "fxemoji:bow",  # a ribbon
            "fxemoji:window", "emojione-v1:window",  # of a computer
            "emojione-v1:keyboard", "fxemoji:keyboard",  # of a piano
            "emojione-v1:shield",  # a road sign
            "noto-v1:pistol", "streamline-emojis:pistol", "emojione:pistol", "emojione-v1:pistol",
            "fxemoji:pistol", "emojione-monotone:pistol",  # firearms, before it was a water pistol
        }
    ),
    "flags": frozenset(
        {
            "circle-flags:ar", "circle-flags:ie", "circle-flags:la",  # Arabic, Interlingue, Latin
            "cif:gn",  # Equatorial Guinea's
            "flagpack:gb",  # England's
        }
    ),
    "brands": frozenset(
        {
            "fontisto:zoom", "grommet-icons:zoom",  # a magnifier; a square
            "mdi:blender", "la:blender",
            "devicon:twitter",  # the X mark
            "vscode-icons:file-type-edge",
            "uil:java-script",
            "grommet-icons:java",  # some cup
            "vscode-icons:file-type-reactjs",  # "JSX"
            "mdi:raspberry-pi",  # a circuit board
            "ant-design:appstore-outlined", "ant-design:appstore-filled",
            "ant-design:appstore-twotone",
            "grommet-icons:npm",  # a square
        }
    ),
}  # fmt: skip
"""``<set>:<icon>`` by domain."""


def is_excluded(domain: Domain, set_name: str, icon: str) -> bool:
    """Tell whether this icon is known not to show what its name says."""
    return f"{set_name}:{icon}" in EXCLUDED[domain]
