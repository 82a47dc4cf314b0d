"""Questions and answers to token ids, with the place of every part known."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .families import Family
from .prompt import Prompt

__all__ = ["Prompt", "Prompter"]


class Prompter:
    """Builds prompts and answers for one model.

    Args:
        family: the prompt templates.
        tokenizer: a fast Hugging Face tokenizer.
        image_token_id: id of the placeholder.
        end_ids: the model's end tokens; the first one ends a teacher-forced answer.
        max_prompt_tokens, max_answer_tokens: longer ones are refused; None: no limit.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: Any,
        image_token_id: int,
        end_ids: list[int],
        max_prompt_tokens: int | None,
        max_answer_tokens: int,
    ):
        self._lock = threading.Lock()
        self.family = family
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.end_ids = end_ids
        self.max_prompt_tokens = max_prompt_tokens
        self.max_answer_tokens = max_answer_tokens
        self.trained_tokens = family.trained_tokens or getattr(tokenizer, "model_max_length", None) or sys.maxsize
        added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
        self._reserved = sorted({*tokenizer.all_special_tokens, *added, family.image_token} - {""})
        if tokenizer.convert_tokens_to_ids(family.image_token) != image_token_id:
            raise InputError(
                f"processor: its tokenizer has no token '{family.image_token}' with the id {image_token_id} that the "
                "model reads as a picture. Load processor and model from the same checkpoint."
            )

    def _tokenise(self, text: str, **options: Any) -> Any:
        with self._lock:  # fast tokenizers refuse ("Already borrowed") when two threads meet in one
            return self.tokenizer(text, **options)

    def _clean(self, field: str, text: object) -> str:
        if not isinstance(text, str):
            raise InputError(f"{field}: expected text, got {type(text).__name__}.")
        if not text.strip():
            raise InputError(f"{field} is empty. Give at least one word.")
        if "\0" in text:
            raise InputError(f"{field} holds a NUL character. Remove it.")
        for token in self._reserved:
            if token.strip() and token in text:
                raise InputError(
                    f"{field} holds '{token}', which the model reads as a command. Remove it from the {field}."
                )
        return text.strip()

    def prompt(self, question: str, placeholders: Sequence[str] = ()) -> Prompt:
        """Tokenises one prompt.

        Args:
            placeholders: for every picture how it is written (`PictureInputs.placeholders`); none: no picture.

        Raises:
            InputError: the question is empty, holds a token of the template, or is too long.
        """
        question = self._clean("question", question)
        before, after = self.family.pieces(placeholders)
        text = before + question + after
        start, end = len(before), len(before) + len(question)
        tokens = self._tokenise(text, return_offsets_mapping=True)
        expected = sum(one.count(self.family.image_token) for one in placeholders)
        leading = expected if self.family.image_first else 0
        ids = [self.image_token_id] * leading + list(tokens["input_ids"])
        in_question = [max(a, start) < min(b, end) for a, b in tokens["offset_mapping"]]
        visual = [token == self.image_token_id for token in ids]
        if sum(visual) != expected:  # a model that finds no placeholder ignores the picture without a word
            raise InputError(
                f"the prompt holds {sum(visual)} image placeholders instead of {expected}: tokenizer and template "
                f"of family '{self.family.name}' do not fit."
            )
        if self.max_prompt_tokens is not None and len(ids) > self.max_prompt_tokens:
            pictures = f", {expected} of them for pictures" if expected else ""
            raise InputError(
                f"question is too long: its prompt has {len(ids)} tokens{pictures}, the model takes "
                f"{self.max_prompt_tokens}. Shorten it{', or give smaller or fewer pictures' if expected else ''}."
            )
        if len(ids) - expected > self.trained_tokens:
            warnings.warn(
                f"question: its prompt has {len(ids) - expected} tokens of text, more than the {self.trained_tokens} that the "
                "model was trained with; the answer may be worth nothing. Ask a shorter question.",
                stacklevel=2,
            )
        return Prompt(text, ids, visual, [False] * leading + in_question, leading)

    def answer(self, prompt: Prompt, answer: str) -> list[int]:
        """The tokens that follow the prompt's last token, with the end of the answer.

        Tokenised in context: `prompt + answer` as one text, less the prompt's own tokens.

        Raises:
            InputError: the answer is empty, too long, or holds what the tokenizer cannot write.
        """
        answer = self._clean("answer", answer)
        written = self.family.answer_prefix + answer + (self.family.end_of_answer or "")
        ids = self._following(prompt.text, written)
        if not ids or self.tokenizer.unk_token_id in ids:
            raise InputError(f"answer '{answer}' holds characters that the model's tokenizer does not know. Reword it.")
        if len(ids) > self.max_answer_tokens:
            raise InputError(
                f"answer is {len(ids)} tokens long; at most {self.max_answer_tokens} are taken. "
                "Shorten the answer or raise max_answer_tokens."
            )
        return ids if self.family.end_of_answer else [*ids, self.end_ids[0]]

    def _following(self, text: str, written: str) -> list[int]:
        """The tokens of `written` where it follows `text`.

        At inference the prompt comes alone, so its tokens must not change: where the answer's first letters would melt
        into the prompt's last token, the answer is tokenised after another mark that it does not melt into.  (By itself
        it would be at the start of a text, where tokenizers like Llama's add a blank.)
        """
        for before in (text, *"\n.:0", ""):
            head = list(self._tokenise(before)["input_ids"])
            whole = list(self._tokenise(before + written)["input_ids"])
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return list(self._tokenise(written, add_special_tokens=False)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """Generated tokens to the answer's text: up to its end, without special tokens and outer blanks."""
        for position, token in enumerate(ids):
            if token in self.end_ids:
                ids = ids[:position]
                break
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if self.family.end_of_answer:
            text = text.split(self.family.end_of_answer)[0]
        return text.strip()
