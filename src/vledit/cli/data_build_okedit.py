"""`vledit data build okedit`: an editing benchmark out of (picture, question, answer) records, every made thing verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..errors import InputError
from .output import Json, console, emit, errors
from .session import Device, Dtype, Model, open_model

if TYPE_CHECKING:
    from ..data.build.chat import Cost
    from ..data.build.construct import Progress as Step
    from ..data.build.plan import Plan
    from ..data.case import EditCase

MODEL_PANEL, PICTURE_PANEL, WANT_PANEL = "Language model", "Picture model", "What to build"


def okedit(
    source: Annotated[Path, typer.Option(help="Own records (.csv or .jsonl) or OK-VQA's annotations (.json).")],
    out: Annotated[Path, typer.Option(help="Folder of the benchmark; an existing one is replaced.")],
    llm: Annotated[str, typer.Option(help="Address of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")],
    llm_model: Annotated[str, typer.Option(help="Name that the endpoint knows the language model by.")],
    image_model: Annotated[
        str,
        typer.Option(help="A diffusers pipeline (folder or id), an endpoint as ADDRESS#MODEL, or icons[:wrong=SHARE]."),
    ],
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of the source's pictures (may be repeated).")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="OK-VQA's questions (default: beside the annotations).")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="NAME=COLUMN: what own records call image, question, answer, … (may be repeated)."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of records, spread evenly; 0: all.")] = 0,
    name: Annotated[str, typer.Option(help="First part of the cases' ids.")] = "okedit",
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what will be requested and what it costs; do nothing.")
    ] = False,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable with the endpoint's key.", rich_help_panel=MODEL_PANEL)
    ] = "OPENAI_API_KEY",
    temperature: Annotated[
        float | None,
        typer.Option(help="Sampling temperature; by default the endpoint's own.", rich_help_panel=MODEL_PANEL),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of replies, pictures and splits.", rich_help_panel=MODEL_PANEL)
    ] = 0,
    concurrency: Annotated[int, typer.Option(help="Concurrent requests.", rich_help_panel=MODEL_PANEL)] = 4,
    rate: Annotated[float, typer.Option(help="Requests per minute; 0: no limit.", rich_help_panel=MODEL_PANEL)] = 0,
    retries: Annotated[int, typer.Option(help="Retries of a failed request.", rich_help_panel=MODEL_PANEL)] = 5,
    timeout: Annotated[float, typer.Option(help="Timeout of a request in seconds.", rich_help_panel=MODEL_PANEL)] = 120,
    price_in: Annotated[
        float, typer.Option(help="Price of a million prompt tokens in dollars.", rich_help_panel=MODEL_PANEL)
    ] = 0,
    price_out: Annotated[
        float, typer.Option(help="Price of a million reply tokens in dollars.", rich_help_panel=MODEL_PANEL)
    ] = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Folder of prompts of your own, one YAML file a step.", rich_help_panel=MODEL_PANEL),
    ] = None,
    picture_size: Annotated[
        int, typer.Option(help="Width and height of pictures in pixels.", rich_help_panel=PICTURE_PANEL)
    ] = 512,
    picture_steps: Annotated[int, typer.Option(help="Diffusion steps.", rich_help_panel=PICTURE_PANEL)] = 30,
    picture_batch: Annotated[
        int, typer.Option(help="Pictures per batch of a diffusers pipeline.", rich_help_panel=PICTURE_PANEL)
    ] = 4,
    picture_device: Annotated[str, typer.Option(help="cpu, cuda, … or auto.", rich_help_panel=PICTURE_PANEL)] = "auto",
    picture_dtype: Annotated[
        str, typer.Option(help="Data type of the pipeline's weights.", rich_help_panel=PICTURE_PANEL)
    ] = "float32",
    price_picture: Annotated[
        float, typer.Option(help="Price of a picture in dollars.", rich_help_panel=PICTURE_PANEL)
    ] = 0,
    rephrasings: Annotated[
        int, typer.Option(help="Number of rephrasings of the question.", rich_help_panel=WANT_PANEL)
    ] = 10,
    pictures: Annotated[
        int, typer.Option(help="Number of other pictures of the thing.", rich_help_panel=WANT_PANEL)
    ] = 10,
    near: Annotated[
        int, typer.Option(help="Number of near pictures, which show the third answer.", rich_help_panel=WANT_PANEL)
    ] = 10,
    text_questions: Annotated[
        int, typer.Option(help="Number of questions without a picture (text locality).", rich_help_panel=WANT_PANEL)
    ] = 0,
    tries: Annotated[
        int,
        typer.Option(
            help="At most this many pictures are made for each of the two kinds while too few are accepted.",
            rich_help_panel=WANT_PANEL,
        ),
    ] = 20,
    least: Annotated[
        int, typer.Option(help="Leave out records with fewer accepted items of any kind.", rich_help_panel=WANT_PANEL)
    ] = 1,
    similarity: Annotated[
        float,
        typer.Option(help="Smallest cosine similarity of a rephrasing to its question.", rich_help_panel=WANT_PANEL),
    ] = 0.3,
    devqa: Annotated[
        bool,
        typer.Option("--devqa", help="Add the cells of De-VQA to every case.", rich_help_panel=WANT_PANEL),
    ] = False,
    keep_unknown: Annotated[
        bool,
        typer.Option(
            "--keep-unknown",
            help="Keep records whose own picture the verifier answers differently.",
            rich_help_panel=WANT_PANEL,
        ),
    ] = False,
    shares: Annotated[
        str,
        typer.Option(
            help="Shares of train, validation and test; no object is in two of them.", rich_help_panel=WANT_PANEL
        ),
    ] = "0.6,0.1,0.3",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    verifier: Annotated[
        str | None,
        typer.Option(
            help="Another model that verifies, instead of --model: a name, a folder, or an endpoint as ADDRESS#MODEL."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Sentence encoder that compares wordings; 'model' takes the verifier's own token embeddings."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Questions per batch of the verifier.")] = 32,
    review: Annotated[
        list[Path] | None, typer.Option(help="Decisions of a human, saved from the sheets (may be repeated).")
    ] = None,
    sheets: Annotated[bool, typer.Option(help="Write the contact sheets.")] = True,
    licence: Annotated[str, typer.Option(help="Licence of the source's data, for the data card.")] = "not stated",
    store: Annotated[
        Path | None, typer.Option(help="Where replies, pictures and answers are kept (default: the cache).")
    ] = None,
    json: Json = False,
) -> None:
    """Build an editing benchmark from your own (picture, question, answer) records, as OKEDIT was built from OK-VQA.

    A language model writes a counterfactual answer, rephrasings and a third answer; a picture model makes pictures; a
    vision-language model verifies all of it. Every result is stored by content hash, so the same command continues where an
    interrupted one stopped.
    """
    from ..data.build.chat import Chat, Endpoint
    from ..data.build.construct import SUPPLIED, Construction, Wants
    from ..data.build.drawing import Studio
    from ..data.build.picture_models import PictureSettings, picture_model
    from ..data.build.plan import plan as planned
    from ..data.build.prompts import load_prompts
    from ..data.build.sheet import read_review
    from ..data.build.sources import read_source
    from ..data.build.splits import read_shares
    from ..data.build.store import Store
    from ..data.build.texts import Writer
    from ..data.build.verifying import Judge
    from ..data.build.writing import cases_by_split, write_benchmark

    if concurrency < 1 or batch < 1:
        raise InputError("concurrency and batch: at least 1 is needed.")
    wants = Wants(rephrasings, pictures, near, text_questions, tries, least, similarity, keep_unknown)
    parts = read_shares(shares)
    kept = Store(store)
    endpoint = Endpoint(
        llm, llm_model, key_variable, temperature, seed, rate, retries, timeout, prices=(price_in, price_out)
    )
    settings = PictureSettings(
        picture_size, picture_steps, picture_batch, retries, max(timeout, 300), rate, concurrency, key_variable,
        price_picture, picture_device, picture_dtype,
    )  # fmt: skip
    steps = load_prompts(prompts)
    decided = {name: said for path in review or [] for name, said in read_review(path).items()}
    data = read_source(source, images or [], _pairs(column), questions, limit)
    chat = Chat(endpoint, kept)
    writer = Writer(chat, steps, rephrasings + SUPPLIED, text_questions)
    if plan:
        _show_plan(planned(data.records, writer, wants, price_picture), json)
        return
    _writable(out)
    studio = Studio(picture_model(image_model, settings), steps["picture"], kept, seed, price_picture)
    looking = _verifier(verifier or model, device, dtype, batch, concurrency, endpoint, kept)
    meaning = _meaning(encoder, looking)
    with _progress([chat.cost, studio.cost]) as step:
        construction = Construction(
            data, writer, studio, Judge(looking, kept), meaning, wants, concurrency, decided, step
        )
        result = construction.run()
        if not result.kept:
            _say_rates(result.rates)
            raise InputError(_nothing(result.rejections))
        cases = cases_by_split(result, name, rephrasings, parts, seed)
        if devqa:
            cases = {split: _with_devqa(some) for split, some in cases.items()}
        about = {
            "name": name,
            "source": {
                "file": data.path.name, "kind": data.kind, "sha256": data.sha256, "records": data.read, "limit": limit,
            },
            "prompts": {step: prompt.about() for step, prompt in steps.items()},
            "language_model": endpoint.about(),
            "picture_model": studio.model.about,
            "verifier": looking.about,
            "meaning": {**meaning.about, "similarity": similarity},
            "settings": {**asdict(wants), "seed": seed, "shares": parts, "devqa": devqa, "reviewed": len(decided)},
            "licences": {
                "source": licence,
                "pictures": studio.model.licence,
                "texts": f"as the terms of {llm_model} say",
            },
        }  # fmt: skip
        step("writing", 0, 1)
        manifest = write_benchmark(result, cases, out, about, sheets)
    _show(manifest, out, chat.cost, studio.cost, json)


def _pairs(column: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in column or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise InputError(f"column: {text!r} is not NAME=COLUMN, e.g. image=picture_file.")
        pairs[name.strip()] = value.strip()
    return pairs


def _writable(out: Path) -> None:
    """Raises: InputError where `out` holds something that no build made."""
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise InputError(f"out: the folder '{out}' holds other files. Give another, or a new one.")
    if out.exists() and not out.is_dir():
        raise InputError(f"out: '{out}' is a file. Give a folder.")


def _verifier(name: str, device: str, dtype: str, batch: int, concurrency: int, endpoint: Any, store: Any) -> Any:
    """The model that looks at pictures.  Raises: see `load`."""
    from dataclasses import replace

    from ..data.build.verifying import EndpointVerifier, ModelVerifier

    if not name.startswith(("http://", "https://")):
        return ModelVerifier(open_model(name, device, dtype).vlm, batch)
    url, _, model = name.partition("#")
    if not model:
        raise InputError(f"verifier: '{name}' names no model. Write it behind the address: {name}#MODEL.")
    return EndpointVerifier(replace(endpoint, url=url, model=model, temperature=0.0, max_tokens=64), store, concurrency)


def _meaning(encoder: str | None, verifier: Any) -> Any:
    from ..data.build.verifying import EmbeddingMeaning, EncoderMeaning

    if encoder == "model":
        if not hasattr(verifier, "vlm"):
            raise InputError("encoder: 'model' needs a verifier that is loaded here; this one is behind an address.")
        return EmbeddingMeaning(verifier.vlm)
    from ..retrieval import DEFAULT

    return EncoderMeaning(encoder or DEFAULT)


def _with_devqa(cases: list[EditCase]) -> list[EditCase]:
    """The cases of one split with De-VQA's cells, whose other questions and pictures come from the same split."""
    from ..data.devqa import DevQA, index_of

    return DevQA(cases, index_of(cases)).wrap_all(cases) if cases else cases


@contextmanager
def _progress(costs: list[Cost]) -> Iterator[Step]:
    """A bar for each phase on stderr, with what the run has cost so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[cost]}"),
    )
    with Progress(*columns, console=errors, transient=False) as bars:
        tasks: dict[str, Any] = {}

        def step(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, cost="")
            bars.update(tasks[phase], completed=done, total=total, cost=_spent(costs))

        yield step


def _spent(costs: list[Cost]) -> str:
    dollars, tokens = sum(cost.dollars for cost in costs), sum(cost.tokens_in + cost.tokens_out for cost in costs)
    return f"{tokens:,} tokens, ${dollars:.2f}" if tokens or dollars else ""


def _show_plan(found: Plan, json: bool) -> None:
    if json:
        emit(found.record())
        return
    table = Table("step", "requests", "kept already", "tokens in", "tokens out")
    for step, counts in found.record()["steps"].items():
        table.add_row(step, *(f"{counts[name]:,}" for name in ("requests", "kept", "tokens_in", "tokens_out")))
    console().print(table)
    low, high = found.pictures
    for line in (
        f"{found.records} records, if the verifier knows all of them and no reply has to be asked for again",
        f"texts: about ${found.text_dollars:.2f}",
        f"pictures: {low:,} to {high:,}, ${found.picture_dollars[0]:.2f} to ${found.picture_dollars[1]:.2f}",
        f"questions to the verifier: {found.questions[0]:,} to {found.questions[1]:,}",
    ):
        console().print(line, markup=False, soft_wrap=True)


def _say_rates(rates: Mapping[str, Any]) -> None:
    table = Table("step", "tried", "accepted", "share")
    for step, (tried, accepted) in rates.items():
        table.add_row(step, str(tried), str(accepted), f"{100 * accepted / tried:.1f} %" if tried else "")
    errors.print(table)


def _nothing(rejections: Any) -> str:
    first = "; ".join(f"{one.record}, {one.step}: {one.reason}" for one in rejections[:5])
    return f"no record is left, so nothing is written. The first rejections: {first}."


def _show(manifest: dict[str, Any], out: Path, texts: Cost, pictures: Cost, json: bool) -> None:
    spent = {
        "replies": texts.fresh,
        "replies_kept": texts.kept,
        "tokens_in": texts.tokens_in,
        "tokens_out": texts.tokens_out,
        "pictures": pictures.fresh,
        "dollars": texts.dollars + pictures.dollars,
    }
    if json:
        emit({"out": out, "cases": manifest["cases"], "rates": manifest["rates"], "this_run": spent})
        return
    _say_rates(manifest["rates"])
    for role, counts in manifest["verifier_against_truth"].items():
        shares = ", ".join(f"{n} {100 * counts[n]:.1f} %" for n in ("precision", "recall") if counts[n] is not None)
        errors.print(f"the verifier against the truth, {role}: {shares}", markup=False, soft_wrap=True)
    counts = ", ".join(f"{count} {split}" for split, count in manifest["cases"].items())
    for line in (
        f"{out}: {counts} cases; DATA_CARD.md, rejected.jsonl" + (", sheets/" if (out / "sheets").is_dir() else ""),
        f"this run: {spent['replies']} replies ({spent['replies_kept']} were kept), {spent['pictures']} pictures made, "
        f"{spent['tokens_in']:,} tokens in, {spent['tokens_out']:,} out, ${spent['dollars']:.2f}",
    ):
        console().print(line, markup=False, soft_wrap=True)
