"""`Family`: what VLEdit has to know about a kind of vision-language model, as data and small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .published import Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

IMAGE_MARK = "{image}"
QUESTION_MARK = "{question}"
ANY = "*"


def last_layers(*roles: str, count: int = 3) -> tuple[Site, ...]:
    """The sites with these roles in the last `count` decoder layers, lowest first."""
    return tuple(Site(-layer, role) for layer in range(count, 0, -1) for role in roles)


@dataclass(frozen=True)
class Family:
    """A kind of vision-language model.  A new one is one file with one of these, and an entry point `vledit.families`.

    Args:
        name: short name, e.g. "blip2".
        title: for people, e.g. "BLIP-2 (OPT)".
        model_types: (config.model_type, text_config.model_type) pairs that it covers; "*" stands for any text model.
        model_class: "module:Class" of the Hugging Face model.
        prompt: text of a question about a picture, with `{image}` once (unless `image_first`) and `{question}` once.
        text_prompt: the same for a question without a picture.
        image_token: the placeholder of one visual token, as the tokenizer writes it.
        default_site: the site edited where the user names none.
        default_alpha: the radius' α where the user names none.
        defaults_from: where the site (and α, unless it says otherwise) is published; "" where no paper gives any for this
            family.
        image_text: what the prompt's `{image}` stands for, once for every picture of a row; its own `{image}` (once) are
            the placeholders of that picture.
        count_image_tokens: model config → placeholders per picture, where they are equally many for all pictures. None:
            the processor says how one picture is written (`processor.replace_image_token`), markers included.
        image_first: the placeholders stand before everything else, the tokenizer's start token included.
        answer_prefix: what stands between prompt and answer when the answer is put into its context.
        end_of_answer: text that ends an answer; None: the model's end token does.
        end_token: the token that ends an answer, where the model's settings name another one first.
        checkpoints: short name → Hugging Face id of published checkpoints.
        published: the sizes of published checkpoints.
        three_layers: the decoder's part of De-VQA's lists of edited parameters (Tables 2 to 4): last three layers.
        vision_sites: dotted paths of the linears on the vision side that `ft_v` trains, below the Hugging Face model; a
            number in a path is an index, which may be negative. (The vision side has no roles that all families share.)
        prepare: called before a local folder is read; makes classes of its own known to transformers.
        load_processor: (folder or id, config) → processor; None: transformers' `AutoProcessor` finds it.
        read_pictures: (processor, PIL pictures of one row, question) → what the image processor returns for them; None:
            `processor.image_processor` with the processor's own defaults.
        joined: tensors of all pictures of a batch, picture by picture along dimension 0 → what the model is called with; for
            models that take them in another form (patches along another dimension, numbers counted through the batch).
        text_inputs: (model, batch) → further (B, T) or (·, B, T) tensors the model is called with, token by token:
            multi-dimensional `position_ids`, token types.
        after_projection: (text config, logits) → logits, what the model does after the vocabulary projection, number by
            number (soft-capping).
        decoding: (model, prompts) → a context around `generate`, where transformers does not decode it rightly by itself.
        embedded: (model, prompts) → (B, T, E), the prompts with their pictures put in; for classes whose pictures `generate`
            cannot repeat for beams nor cut into pieces.
        whole_prompts: the class reads a prompt with a picture in one piece only, so that prefill in chunks is ignored.
        drafts: whether transformers' class can take back a draft, as assisted decoding does.
        image_size: (processor, config) → (width, height) of the model's own input, where the config does not say.
        trained_tokens: the longest prompt, in tokens, that the model saw in training; longer ones are answered with a warning.
            None: not known here; then what the tokenizer says of itself counts.
        complete: (model, processor) → the family to use; for families that are only known once a processor is loaded.
    """

    name: str
    title: str
    model_types: tuple[tuple[str, str], ...]
    model_class: str
    prompt: str
    text_prompt: str
    image_token: str
    default_site: Site
    default_alpha: float
    defaults_from: str = ""
    image_text: str = IMAGE_MARK
    count_image_tokens: Callable[[Any], int] | None = None
    image_first: bool = False
    answer_prefix: str = ""
    end_of_answer: str | None = None
    end_token: str | None = None
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    three_layers: tuple[Site, ...] = last_layers("mlp.up", "mlp.out")
    vision_sites: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    load_processor: Callable[[str, Any], Any] | None = None
    read_pictures: Callable[[Any, Sequence[Any], str], Mapping[str, Any]] | None = None
    joined: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    text_inputs: Callable[[Any, Encoded], dict[str, Tensor]] | None = None
    after_projection: Callable[[Any, Tensor], Tensor] | None = None
    decoding: Callable[[Any, Encoded], AbstractContextManager[None]] | None = None
    embedded: Callable[[Any, Encoded], Tensor] | None = None
    whole_prompts: bool = False
    drafts: bool = True
    image_size: Callable[[Any, Any], tuple[int, int]] | None = None
    trained_tokens: int | None = None
    complete: Callable[[Any, Any], Family] | None = None

    def __post_init__(self) -> None:
        for template, pictures in ((self.prompt, 0 if self.image_first else 1), (self.text_prompt, 0)):
            if template.count(QUESTION_MARK) != 1 or template.count(IMAGE_MARK) != pictures:
                raise ValueError(
                    f"family '{self.name}': {template!r} needs {{question}} once and {{image}} {pictures} times"
                )
        if self.image_text.count(IMAGE_MARK) != 1:
            raise ValueError(f"family '{self.name}': image_text {self.image_text!r} needs {{image}} once")

    def matches(self, config: Any) -> bool:
        """Whether a Hugging Face config is of this family."""
        text_type = getattr(getattr(config, "text_config", None), "model_type", "")
        return any(kind == config.model_type and text in (text_type, ANY) for kind, text in self.model_types)

    def load_class(self) -> Any:
        """The Hugging Face model class (imports transformers)."""
        module, _, name = self.model_class.partition(":")
        return getattr(import_module(module), name)

    def pieces(self, placeholders: Sequence[str]) -> tuple[str, str]:
        """The prompt's text before and after the question; placeholders of `image_first` families are not in it.

        Args:
            placeholders: for every picture how it is written; empty for a question without a picture.
        """
        template = self.prompt if placeholders else self.text_prompt
        before, _, after = template.partition(QUESTION_MARK)
        visual = "".join(self.image_text.replace(IMAGE_MARK, one) for one in placeholders)
        return before.replace(IMAGE_MARK, visual), after.replace(IMAGE_MARK, visual)
