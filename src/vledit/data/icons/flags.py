"""Match flags across sets by country code: the domain `flags`.

The countries are the 193 members and two observers of the United Nations, less those whose flag
cannot be told from another's (`TWINS`). Facts come from countries-list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vledit.data.icons.model import Candidate, Concept
from vledit.data.icons.sets import BY_NAME
from vledit.data.icons.sources import Source, plain_hexcode, plain_name, slug_of

COUNTRIES = (  # noqa: SIM905 (a list of 195 literals would fill five screens)
    "AF AL DZ AD AO AG AR AM AU AT AZ BS BH BD BB BY BE BZ BJ BT BO BA BW BR BN BG BF BI CV KH CM CA "
    "CF TD CL CN CO KM CG CD CR CI HR CU CY CZ DK DJ DM DO EC EG SV GQ ER EE SZ ET FJ FI FR GA GM GE "
    "DE GH GR GD GT GN GW GY HT HN HU IS IN ID IR IQ IE IL IT JM JP JO KZ KE KI KP KR KW KG LA LV LB "
    "LS LR LY LI LT LU MG MW MY MV ML MT MH MR MU MX FM MD MC MN ME MA MZ MM NA NR NP NL NZ NI NE NG "
    "MK NO OM PK PW PA PG PY PE PH PL PT QA RO RU RW KN LC VC WS SM ST SA SN RS SC SL SG SK SI SB SO "
    "ZA SS ES LK SD SR SE CH SY TJ TZ TH TL TG TO TT TN TR TM TV UG UA AE GB US UY UZ VU VE VN YE ZM "
    "ZW VA PS"
).split()

TWINS = {"MC": "ID", "TD": "RO"}
"""Left out for being drawn just as another: Monaco as Indonesia, Chad as Romania."""

NAMES = {
    "CG": "Republic of the Congo",
    "CD": "DR Congo",
    "CI": "Ivory Coast",
    "MM": "Myanmar",
    "CZ": "Czechia",
    "MK": "North Macedonia",
    "SZ": "Eswatini",
    "CV": "Cape Verde",
    "TL": "East Timor",
    "VA": "Vatican City",
    "FM": "Micronesia",
    "TR": "Turkey",
    "KN": "Saint Kitts and Nevis",
    "LC": "Saint Lucia",
    "ST": "São Tomé and Príncipe",
    "VC": "Saint Vincent and the Grenadines",
    "KR": "South Korea",
    "KP": "North Korea",
}
CAPITALS = {
    "US": "Washington",
    "BO": "Sucre",
    "LK": "Colombo",
    "KZ": "Astana",
    "BI": "Gitega",
    "ZA": "Pretoria",
    "PW": "Ngerulmud",
    "NR": "Yaren",
    "PS": "Ramallah",
    "UA": "Kyiv",
    "SZ": "Mbabane",
    "MN": "Ulaanbaatar",
    "SM": "San Marino",
    "AG": "St. John's",
    "KI": "Tarawa",
}
CURRENCIES = {
    "Israeli New Shekel": "shekel",
    "Bosnia-Herzegovina Convertible Mark": "mark",
    "Peruvian Sol": "sol",
    "Zimbabwean Gold": "Zimbabwe gold",
    "Tongan Paʻanga": "pa'anga",
}
CURRENCY_CODES = {
    "BG": "EUR",
    "HR": "EUR",
    "CH": "CHF",
    "BO": "BOB",
    "CL": "CLP",
    "UY": "UYU",
    "US": "USD",
    "CU": "CUP",
    "SV": "USD",
    "PA": "PAB",
    "HT": "HTG",
    "LS": "LSL",
    "BT": "BTN",
    "NA": "NAD",
}
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
    "AN": "Antarctica",
}
CONTINENT_CODES = {"RU": "EU", "TL": "AS"}
"""Where most of its people or its capital are, against what countries-list says."""
LANGUAGE_NAMES = {
    "Cambodian": "Khmer",
    "Laotian": "Lao",
    "Rwandi": "Kinyarwanda",
    "Somalia": "Somali",
    "Sinhalese": "Sinhala",
    "Tagalog / Filipino": "Filipino",
    "Divehi": "Dhivehi",
}
LANGUAGES = {
    "BE": "nl",
    "CH": "de",
    "IE": "en",
    "IN": "hi",
    "PH": "tl",
    "ZA": "zu",
    "KE": "sw",
    "SG": "en",
    "CA": "en",
    "CM": "fr",
    "PK": "ur",
    "MG": "mg",
}
OTHER_ICONS = {"GB": ("gbukm",)}
"""Plain names of icons by another code: flagpack's "gb" is England."""
MIN_DRAWINGS = 8


def candidates(sources: list[Source], node_modules: Path) -> list[Candidate]:
    """Return the countries with the icons of `sources` that draw their flag."""
    base = node_modules / "countries-list"
    countries: dict[str, Any] = _read(base / "countries.min.json")
    currencies: dict[str, Any] = _read(base / "currencies.min.json")
    languages: dict[str, Any] = _read(base / "languages.min.json")
    found = []
    for code in COUNTRIES:
        if code in TWINS:
            continue
        entry: dict[str, Any] = countries[code]
        label = _emoji_label(code, node_modules)
        icons = [
            (source.icon_set.name, icon)
            for source in sources
            for icon in _icons(source, code, {entry["name"], NAMES.get(code, ""), label})
        ]
        language = languages[LANGUAGES.get(code) or entry["languages"][0]]["name"]
        currency = currencies[CURRENCY_CODES.get(code) or entry["currency"][0]]["name"]
        name: str = NAMES.get(code) or entry["name"]
        facts = {
            "country": name,
            "capital": CAPITALS.get(code) or entry["capital"],
            "continent": CONTINENTS[CONTINENT_CODES.get(code) or entry["continent"]],
            "currency": currency_name(currency),
            "language": LANGUAGE_NAMES.get(language, language),
        }
        slug = slug_of(name)
        concept = Concept(f"flags/{slug}", "flags", name, facts, facts["continent"])
        found.append(Candidate(concept, tuple(dict.fromkeys(icons))))
    return found


def is_enough(_: Concept, pairs: list[tuple[str, str]]) -> bool:
    """Tell whether a flag has enough (set, style) drawings: 8, by 5 hands."""
    return len(pairs) >= MIN_DRAWINGS and len({BY_NAME[name].hand for name, _ in pairs}) >= 5


def currency_name(full_name: str) -> str:
    """Return what a currency is called in its own country: "Mexican Peso" is "peso"."""
    if full_name in CURRENCIES:
        return CURRENCIES[full_name]
    if full_name.endswith("CFA Franc"):
        return "CFA franc"
    return full_name.split()[-1].lower()


def _icons(source: Source, code: str, names: set[str]) -> list[str]:
    """Return the icons that draw the flag of country `code` in `source`."""
    if source.icon_set.folder or "things" not in source.icon_set.domains:
        lower = code.lower()
        wanted = [lower, f"{lower}4x3", f"{lower}1x1", *OTHER_ICONS.get(code, ())]
        return [source.names[name] for name in wanted if name in source.names]
    hexcode = "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):x}" for letter in code)
    if plain_hexcode(hexcode) in source.hexcodes:
        return [source.hexcodes[hexcode]]
    if source.icon_set.name == "streamline-emojis":
        keys = {plain_name(name) for name in names if name}
    elif source.icon_set.name == "fxemoji":
        keys = {f"{plain_name(name)}flag" for name in names if name}
    else:
        keys = {f"flagfor{plain_name(name)}" for name in names if name}
        keys |= {f"flag{plain_name(name)}" for name in names if name}
        keys |= {f"flagforflag{plain_name(name)}" for name in names if name}
    return [source.names[key] for key in sorted(keys) if key in source.names]


_LABELS: dict[Path, dict[str, str]] = {}


def _emoji_label(code: str, node_modules: Path) -> str:
    if node_modules not in _LABELS:
        entries = _read(node_modules / "emojibase-data" / "en" / "data.json")
        _LABELS[node_modules] = {entry["hexcode"]: entry["label"].removeprefix("flag: ") for entry in entries}
    hexcode = "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in code)
    return _LABELS[node_modules].get(hexcode, "")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
