"""The prompts of the build as data: one YAML file a step, with a version; the manifest names each with its hash."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vledit.data.cache import sha256_bytes
from vledit.errors import InputError

FOLDER = Path(__file__).with_name("prompts")
FIELDS = {
    "counterfactual": {"question", "answer"},
    "rephrase": {"question", "count"},
    "object": {"question", "answer"},
    "third_answer": {"question", "answer", "counterfactual"},
    "text_questions": {"object", "answer", "count"},
    "picture": {"object"},
    "again": {"reason"},
}
"""Step → what its prompt may have in braces."""


@dataclass(frozen=True)
class Prompt:
    """One step's prompt.

    Args:
        source: where its words come from.
        reply_tokens: about how many a reply has, for the estimate of costs.
        sha256: of the text.
    """

    name: str
    version: int
    source: str
    text: str
    reply_tokens: int
    sha256: str

    def fill(self, **fields: object) -> str:
        """The text with the fields filled in."""
        return self.text.format(**fields).strip()

    def about(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {"version": self.version, "sha256": self.sha256, "source": self.source}


def load_prompts(folder: Path | None = None) -> dict[str, Prompt]:
    """Return all prompts by step.

    Args:
        folder: files of the user's own; a step that has no file there keeps the package's.

    Raises: InputError naming the file and what is wrong in it.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"prompts: there is no folder '{folder}'.")
    if folder is not None and (unknown := sorted(p.stem for p in folder.glob("*.yaml") if p.stem not in FIELDS)):
        raise InputError(f"prompts: '{folder}' has {', '.join(unknown)}.yaml; the steps are {', '.join(FIELDS)}.")
    found = {}
    for name in FIELDS:
        own = folder / f"{name}.yaml" if folder else None
        found[name] = read_prompt(own if own and own.is_file() else FOLDER / f"{name}.yaml", name)
    return found


def read_prompt(path: Path, name: str) -> Prompt:
    """Return the prompt in a file.  Raises: InputError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"prompts: '{path}' cannot be read as YAML ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise InputError(f"prompts: '{path}' has no text under 'prompt'.")
    version, tokens = content.get("version"), content.get("reply_tokens", 0)
    if not isinstance(version, int) or not isinstance(tokens, int):
        raise InputError(f"prompts: '{path}': 'version' and 'reply_tokens' must be whole numbers.")
    text = content["prompt"]
    try:
        used = {part for _, part, _, _ in string.Formatter().parse(text) if part is not None}
    except ValueError as error:
        raise InputError(f"prompts: '{path}': {error}; braces that are meant as such are doubled.") from error
    if unknown := sorted(used - FIELDS[name]):
        raise InputError(
            f"prompts: '{path}' uses {', '.join('{' + one + '}' for one in unknown)}; this step has "
            f"{', '.join('{' + one + '}' for one in sorted(FIELDS[name]))}. Braces that are meant as such are doubled."
        )
    return Prompt(name, version, str(content.get("source", "")), text, tokens, sha256_bytes(text.encode()))
