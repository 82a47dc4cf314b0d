"""Prompt templates taken from a processor's chat template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .families import IMAGE_MARK, QUESTION_MARK, Family

_WORD = "vledit-question-goes-here"


def chat_prompts(processor: Any, image_token: str) -> tuple[str, str] | None:
    """The templates of a question with and without a picture, as `Family.prompt` and `Family.text_prompt`.

    None where the processor has no chat template, or one that leaves out the picture or the question.
    """
    if not getattr(processor, "chat_template", None):
        return None
    text = {"type": "text", "text": _WORD}
    templates = []
    for content, pictures in (([{"type": "image"}, text], 1), ([text], 0)):
        messages = [{"role": "user", "content": content}]
        written = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if written.count(_WORD) != 1 or written.count(image_token) != pictures:
            return None
        templates.append(_without_start(processor.tokenizer, written).replace(image_token, IMAGE_MARK))
    return templates[0].replace(_WORD, QUESTION_MARK), templates[1].replace(_WORD, QUESTION_MARK)


def _without_start(tokenizer: Any, text: str) -> str:
    """Without the start token that the tokenizer will put there itself."""
    start = tokenizer.bos_token
    if start and text.startswith(start) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        return text[len(start) :]
    return text


def answer_prefix(prompt: str) -> str:
    """What models write before an answer: a blank, but not at the start of a line or after a blank."""
    return "" if not prompt or prompt[-1].isspace() or prompt.endswith("|>") else " "


def as_the_processor_says(family: Family, processor: Any, mark: str) -> Family:
    """A family with the prompts of the chat template that a checkpoint carries; without one, the family as it is written.

    Args:
        mark: what the template writes for a picture.
    """
    found = chat_prompts(processor, mark)
    if found is None:
        return replace(family, complete=None)
    prompt, text_prompt = found
    return replace(
        family,
        prompt=prompt,
        text_prompt=text_prompt,
        image_text=IMAGE_MARK,
        answer_prefix=answer_prefix(prompt),
        complete=None,
    )
