"""`Family`: what has to be known about a kind of vision-language model, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .site import Site

IMAGE_MARK = "{image}"
QUESTION_MARK = "{question}"


@dataclass(frozen=True)
class Family:
    """A kind of vision-language model.  A new one is one file with one of these, and an entry point `vledit.families`.

    Args:
        name: short name, e.g. "blip2".
        title: for people, e.g. "BLIP-2 (OPT)".
        model_types: (config.model_type, text_config.model_type) pairs that it covers.
        model_class: "module:Class" of the Hugging Face model.
        prompt: text of a question about a picture, with `{image}` once (unless `image_first`) and `{question}` once.
        text_prompt: the same for a question without a picture.
        image_token: the placeholder of one visual token, as the tokenizer writes it.
        count_image_tokens: model config → placeholders per picture.
        image_first: the placeholders stand before everything else, the tokenizer's start token included.
        answer_prefix: what stands between prompt and answer when the answer is put into its context.
        end_of_answer: text that ends an answer; None: the model's end token does.
        default_site: the site edited where the user names none.
        default_alpha: the radius' α where the user names none.
        checkpoints: short name → Hugging Face id of published checkpoints.
        prepare: called before a local folder is read; makes classes of its own known to transformers.
        load_processor: (folder or id, config) → processor; None: transformers' `AutoProcessor` finds it.
    """

    name: str
    title: str
    model_types: tuple[tuple[str, str], ...]
    model_class: str
    prompt: str
    text_prompt: str
    image_token: str
    count_image_tokens: Callable[[Any], int]
    default_site: Site
    default_alpha: float
    image_first: bool = False
    answer_prefix: str = ""
    end_of_answer: str | None = None
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    load_processor: Callable[[str, Any], Any] | None = None

    def __post_init__(self) -> None:
        for template, pictures in ((self.prompt, 0 if self.image_first else 1), (self.text_prompt, 0)):
            if template.count(QUESTION_MARK) != 1 or template.count(IMAGE_MARK) != pictures:
                raise ValueError(
                    f"family '{self.name}': {template!r} needs {{question}} once and {{image}} {pictures} times"
                )

    def matches(self, config: Any) -> bool:
        """Whether a Hugging Face config is of this family."""
        text_type = getattr(getattr(config, "text_config", None), "model_type", "")
        return (config.model_type, text_type) in self.model_types

    def load_class(self) -> Any:
        """The Hugging Face model class (imports transformers)."""
        module, _, name = self.model_class.partition(":")
        return getattr(import_module(module), name)

    def pieces(self, with_image: bool, n_image_tokens: int) -> tuple[str, str]:
        """The prompt's text before and after the question; placeholders of `image_first` families are not in it."""
        template = self.prompt if with_image else self.text_prompt
        before, _, after = template.partition(QUESTION_MARK)
        visual = self.image_token * n_image_tokens
        return before.replace(IMAGE_MARK, visual), after.replace(IMAGE_MARK, visual)
