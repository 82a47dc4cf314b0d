"""A language model behind an OpenAI-compatible endpoint: rate, retries, running cost; every reply is stored by content hash."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vledit.data.build.store import Store
from vledit.data.cache import sha256_json
from vledit.errors import InputError, MissingDataError

MISSING_CLIENT = "The package openai is not installed. Install it: pip install 'vledit[build]'."
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Endpoint:
    """How a language model is asked.

    Args:
        url: base address, e.g. "https://api.openai.com/v1".
        key_variable: environment variable that holds the key; servers without keys need none.
        temperature, seed: sent where they are not None.
        rate: requests a minute at most; 0: no limit.
        retries: of a request that failed on its way (connection, time-out, 408, 409, 429, 5xx), with growing pauses; a
            server's Retry-After is honoured.
        timeout: seconds a request may take.
        max_tokens: of a reply.
        prices: dollars for a million tokens in, and out.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = None
    seed: int | None = 0
    rate: float = 0
    retries: int = 5
    timeout: float = 120
    max_tokens: int = 1000
    prices: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_url("llm", self.url)
        if not self.model.strip():
            raise InputError("llm-model: the name is empty. Give the name that the endpoint knows the model by.")
        for name in ("rate", "retries", "timeout"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")

    def about(self) -> dict[str, Any]:
        """What replies depend on, as it stands in hashes and in the manifest; never a key."""
        return {
            "url": public_url(self.url),
            "model": self.model,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class Reply:
    """What the model said; `refused` is its reason where it would not answer."""

    text: str
    refused: str
    cut_off: bool
    tokens: tuple[int, int]


class NoReply(Exception):
    """A request got no reply after all retries; another run may have better luck."""


@dataclass
class Cost:
    """Tokens and dollars, added up by several threads.

    Args:
        fresh: requests of this run; `kept`: those that were found in the store.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    fresh: int = 0
    kept: int = 0
    dollars: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, tokens: tuple[int, int], dollars: float, fresh: bool) -> None:
        with self._lock:
            self.fresh += fresh
            self.kept += not fresh
            if fresh:
                self.tokens_in += tokens[0]
                self.tokens_out += tokens[1]
                self.dollars += dollars


class Pace:
    """Lets through so many a minute, evenly; 0: all."""

    def __init__(self, rate: float):
        self._pause = 60 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the caller may go."""
        if not self._pause:
            return
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._next)
            self._next = slot + self._pause
        time.sleep(max(0.0, slot - now))


class Chat:
    """Asks an endpoint; threads may share it."""

    def __init__(self, endpoint: Endpoint, store: Store, cost: Cost | None = None):
        self.endpoint, self.store, self.cost = endpoint, store, cost or Cost()
        self._pace, self._client, self._lock = Pace(endpoint.rate), None, threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def asked(self, messages: Messages) -> dict[str, Any]:
        """What a reply is kept by."""
        return {"endpoint": self.endpoint.about(), "messages": messages}

    def known(self, messages: Messages) -> bool:
        """Whether the reply is there already."""
        return self.store.get("replies", self.asked(messages)) is not None

    def __call__(self, messages: Messages) -> Reply:
        """The model's reply.

        Raises:
            NoReply: after all retries.
            InputError: the endpoint refuses the request as such (key, model name, address).
            MissingDataError: there is nobody at the address, or the package openai is not installed.
        """
        asked = self.asked(messages)
        found = self.store.get("replies", asked)
        fresh = False
        if found is None:
            with self._asking(sha256_json(asked)):  # two records may ask the same; one request serves both
                found = self.store.get("replies", asked)
                if fresh := found is None:
                    self._pace.wait()
                    found = self.store.put("replies", asked, self._ask(messages))
        tokens = (int(found["tokens"][0]), int(found["tokens"][1]))
        self.cost.add(tokens, self.dollars(tokens), fresh)
        return Reply(found["text"], found["refused"], found["cut_off"], tokens)

    def _asking(self, key: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def dollars(self, tokens: tuple[int, int]) -> float:
        """The price of so many tokens in and out."""
        return sum(count * price / 1e6 for count, price in zip(tokens, self.endpoint.prices, strict=True))

    def _ask(self, messages: Messages) -> dict[str, Any]:
        import openai

        given = {"temperature": self.endpoint.temperature, "seed": self.endpoint.seed}
        try:
            answer = self._connected().chat.completions.create(
                model=self.endpoint.model,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=self.endpoint.max_tokens,
                **{name: value for name, value in given.items() if value is not None},
            )
        except openai.APIError as error:
            if refusal := content_refusal(error):
                return {"text": "", "refused": refusal, "cut_off": False, "tokens": [0, 0]}
            raise translated(error, "llm", self.endpoint.url, self.endpoint.key_variable) from error
        if not answer.choices:
            return {"text": "", "refused": "", "cut_off": False, "tokens": [0, 0]}
        choice, usage = answer.choices[0], answer.usage
        refused = choice.message.refusal or ""
        if choice.finish_reason == "content_filter":
            refused = refused or "the endpoint's content filter"
        return {
            "text": choice.message.content or "",
            "refused": refused,
            "cut_off": choice.finish_reason == "length",
            "tokens": [usage.prompt_tokens, usage.completion_tokens] if usage else [0, 0],
        }

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                e = self.endpoint
                self._client = client(e.url, e.key_variable, e.retries, e.timeout)
            return self._client


def client(url: str, key_variable: str, retries: int, timeout: float) -> Any:
    """An `openai.OpenAI`.  Raises: MissingDataError where the package is not installed."""
    try:
        import openai
    except ImportError as error:
        raise MissingDataError(MISSING_CLIENT) from error
    key = os.environ.get(key_variable) or "none"
    return openai.OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)


def check_url(option: str, url: str) -> None:
    """Raises: InputError where `url` is no http address."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"{option}: '{url}' is no address. Give one such as http://localhost:8000/v1.")


def public_url(url: str) -> str:
    """The address without user names, passwords and queries."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path.rstrip("/"), "", ""))


def content_refusal(error: Any) -> str:
    """Why the endpoint will not answer this content, or "" where the error is another."""
    code = str(getattr(error, "code", "") or "")
    if getattr(error, "status_code", None) == 400 and ("content" in code or "moderation" in code or "safety" in code):
        return str(error.message if hasattr(error, "message") else error)
    return ""


def translated(error: Any, option: str, url: str, key_variable: str) -> Exception:
    """The error in the user's words: `NoReply` where trying again may help, else InputError or MissingDataError."""
    import openai

    where = public_url(url)
    if isinstance(error, openai.APITimeoutError):
        return NoReply(f"no reply in time from {where}")
    if isinstance(error, openai.APIConnectionError):
        return MissingDataError(f"{option}: nobody answers at {where}. Check the address; what is done so far is kept.")
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return InputError(f"{option}: {where} refuses the key ({status}). Put a valid one into ${key_variable}.")
    if status is not None and status < 500 and status not in (408, 409, 429):
        return InputError(f"{option}: {where} refuses the request ({status}): {error}")
    return NoReply(f"{where} answered {status}: {error}")
