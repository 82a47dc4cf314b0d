"""A recipe for every table (and every figure with numbers) of both papers: checkpoints, files, settings, commands, time, memory.

A recipe is a list of ordinary `vledit` commands with placeholders.  Times are those of the papers, if they give any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..editors.named import published
from ..errors import InputError, UnknownNameError

BLIP2, MINIGPT4 = "Salesforce/blip2-opt-2.7b", "minigpt4-vicuna-7b"
LLAVA, QWEN = "llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2-VL-7B-Instruct"
FIT_EDITS = 6346
SECONDS = {"ft": 3.91, "ike": 0.38, "mend": 1.48, "grace": 32.67, "balancedit": 8.04}
"""Seconds per edit on an A100 with BLIP-2 OPT (BalancEdit, Table 5); fitting: IKE 12 h, MEND 22 h."""
HOURS = {"ike": 12.0, "mend": 22.0}
FILES: Mapping[str, tuple[str, str, int]] = {
    "evqa": ("vqa_eval.json, val2014, val2014_image_rephrase", "vqa_train.json", 2093),
    "vlkeb": ("eval.json, VLKEB_images", "train.json", 3174),
    "okedit": (
        "annotations and questions of OKEDIT's test split, val2014, generated pictures",
        "those of its training split",
        5046,
    ),
}
"""Benchmark → files to score on, file to fit on, edits."""


@dataclass(frozen=True)
class Given:
    """What a recipe's blanks are filled with.

    Args:
        family: of the model. out: folder for everything that is made.
        annotations, train: files to score and to fit on; None for benchmarks that come with the package.
        limit: edits; 0: all. benchmark: in place of the recipe's own.
        quick: settings that every editor is given, for a trial run.
    """

    model: str
    family: str
    out: Path
    benchmark: str
    annotations: Path | None = None
    train: Path | None = None
    images: tuple[Path, ...] = ()
    more: tuple[str, ...] = ()
    limit: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    own_settings: bool = False
    fit_steps: int = 0

    def editor(self, name: str, **settings: Any) -> str:
        """An editor with its authors' settings for this model, where there are any and they are asked for."""
        found = {"scope": "paper"} if name == "balancedit" else {}
        if not self.own_settings:
            try:
                published(name, self.family)
                found = {"settings": "published"}
            except InputError:
                pass
        if name in FITTED:
            settings = {"fitted": str(self.out / name), **settings}
        joined = ",".join(f"{key}={value}" for key, value in {**found, **settings}.items())
        return f"{name}:{joined}" if joined else name

    def editors(self, names: Sequence[str]) -> str:
        return ";".join(f"{name}={self.editor(name)}" for name in names)

    def data(self, train: bool = False) -> list[str]:
        """The options that name the benchmark and its files."""
        file = self.train if train else self.annotations
        words = ["--benchmark", self.benchmark]
        words += ["--annotations", str(file)] if file is not None else []
        for image in self.images:
            words += ["--images", str(image)]
        for one in self.more:
            words += ["--with", one]
        return words

    def where(self) -> list[str]:
        return ["--model", self.model, "--device", self.device, "--dtype", self.dtype]

    def count(self) -> list[str]:
        return ["--limit", str(self.limit)]


FITTED = ("mend", "mend_adv", "ike", "serac", "hice", "lte", "recipe", "liveedit")
Command = list[str]


@dataclass(frozen=True)
class Recipe:
    """One table.

    Args:
        name: "paper-tableN". about: what the table says. checkpoints: those of the paper.
        benchmarks: those of the paper. editors: of its rows.
        steps: from what is given to commands. seconds: per edit of every editor where the paper says it.
        hardware: what the paper ran on.
        missing: what of the table no command makes, and why.
    """

    name: str
    about: str
    checkpoints: tuple[str, ...]
    benchmarks: tuple[str, ...]
    editors: tuple[str, ...]
    steps: Callable[[Given, Recipe], list[Command]]
    hardware: str = "NVIDIA A100 (BalancEdit, App. F)"
    missing: str = ""

    def commands(self, given: Given) -> list[Command]:
        """The commands, in order; the fitting of editors that need it comes first."""
        return self.steps(given, self)

    def time(self, edits: int) -> str:
        """How long it takes, as far as the paper says."""
        known = {name: SECONDS[name] for name in self.editors if name in SECONDS}
        if not known:
            return "the paper does not say; run it with --limit 5 first, which tells what an edit takes here"
        hours = sum(known.values()) * edits / 3600
        fitting = sum(HOURS.get(name, 0.0) for name in self.editors)
        unknown = [name for name in self.editors if name not in SECONDS]
        rest = f"; not known: {', '.join(unknown)}" if unknown else ""
        return f"{hours:.1f} h of edits, {fitting:.0f} h of fitting by the paper's Table 5, scoring not counted{rest}"


def fits(given: Given, names: Sequence[str]) -> list[Command]:
    """Fitting of the editors that need it."""
    found = []
    for name in names:
        if name in FITTED:
            words = ["fit", "--editor", name, "--out", str(given.out / name), *given.data(train=True), *given.where()]
            if given.fit_steps:
                words += ["--steps", str(given.fit_steps)]
            found.append(words)
    return found


def scored(given: Given, recipe: Recipe, *more: str, editors: str = "", end: str = "") -> list[Command]:
    """Fitting, a run and its page."""
    results = str(given.out / f"{recipe.name}{end}.jsonl")
    bench = [
        "bench",
        "--editors",
        editors or given.editors(recipe.editors),
        *given.data(),
        *given.count(),
        *given.where(),
    ]
    page = ["report", results, "--out", str(given.out / f"{recipe.name}{end}.html")]
    return [*fits(given, recipe.editors), [*bench, "--out", results, *more], page]


def ablated(name: str, *more: str) -> Callable[[Given, Recipe], list[Command]]:
    """An ablation, with its plot."""

    def steps(given: Given, recipe: Recipe) -> list[Command]:
        words = ["ablate", name, "--out", str(given.out / f"{recipe.name}.png")]
        rivals = ["--editors", given.editors(recipe.editors)] if len(recipe.editors) > 1 else []
        split = ["--split", "test"]
        command = [*words, *split, *rivals, *given.data(), *given.count(), *given.where(), *more]
        return [*fits(given, recipe.editors if rivals else ()), command]

    return steps


def analysed(name: str) -> Callable[[Given, Recipe], list[Command]]:
    """An analysis of what decides the answer."""

    def steps(given: Given, recipe: Recipe) -> list[Command]:
        out = str(given.out / f"{recipe.name}.jsonl")
        shown = given.editors(recipe.editors) if recipe.editors else ""
        command = ["analyze", name, "--editors", shown, *given.data(), *given.count(), "--out", out]
        return [
            *fits(given, recipe.editors),
            [*command, "--model", given.model, "--device", given.device, "--dtype", given.dtype],
        ]

    return steps


def _subsets(given: Given, recipe: Recipe) -> list[Command]:
    """`mend_adv` fitted with every subset of the adversarial terms, and scored (Table 10)."""
    commands, variants = [], []
    for terms in ("", "NI", "RI", "CI", "NI,CI", "RI,CI", "RI,NI", "all"):
        name = terms.replace(",", "-") or "none"
        folder = given.out / f"mend_adv-{name}"
        words = ["fit", "--editor", "mend_adv", "--out", str(folder), "--set", f"adversarial={terms}"]
        words += [
            *given.data(train=True),
            *given.where(),
            *(["--steps", str(given.fit_steps)] if given.fit_steps else []),
        ]
        commands.append(words)
        variants.append(f"{name}=mend_adv:fitted={folder}")
    only = Recipe(**{**vars(recipe), "editors": ()})
    return commands + scored(given, only, "--devqa", editors=";".join(variants))


def _modules(given: Given, recipe: Recipe) -> list[Command]:
    """Fine-tunes of the language side, of the vision side, and both editors with the adversarial terms (Table 9, Fig. 7)."""
    adv = {"adversarial": "all", "companions": str(given.train) if given.train else "icons"}
    variants = [
        f"language={given.editor('ft')}",
        f"vision={given.editor('ft_v')}",
        f"language+adv={given.editor('ft', **adv)}",
        f"vision+adv={given.editor('ft_v', **adv)}",
    ]
    return scored(given, recipe, "--devqa", editors=";".join(variants))


DE_VQA = (
    "mend",
    "mend_adv",
    "ft",
    "ft_v",
    "serac",
    "t_patcher",
    "lte",
    "recipe",
    "lemoe",
    "liveedit",
    "hice",
    "ike",
    "grace",
)
_BOTH, _OURS = (BLIP2, MINIGPT4), ("balancedit",)
_UNKNOWN = "not named in the paper"

RECIPES: Mapping[str, Recipe] = {
    one.name: one
    for one in (
        Recipe(
            "balancedit-table1", "one edit: related, unrelated and black picture, by method", (BLIP2,), ("okedit",),
            ("ike", "mend", "grace", "balancedit"), lambda given, recipe: scored(given, recipe, "--texts", "20"),
        ),
        Recipe(
            "balancedit-table2", "the data sets: edits, pictures and questions of OKEDIT and MMEDIT", (), ("okedit", "evqa"), (),
            lambda given, recipe: [["data", "check", given.benchmark, *given.data()[2:]]],
            missing="the compared data sets' figures are counts of files; check each file that you have",
        ),
        Recipe(
            "balancedit-table3", "the main table: Acc, T-Gen, I-Gen, Loc, HM", _BOTH, ("evqa", "okedit"),
            ("ft", "ike", "mend", "grace", "balancedit"), scored,
        ),
        Recipe(
            "balancedit-table4", "50 edits in sequence", (MINIGPT4,), ("okedit",),
            ("ft", "ike", "mend", "grace", "balancedit"), ablated("sequential"),
        ),
        Recipe(
            "balancedit-table5", "hours of fitting, seconds per edit", (BLIP2,), ("okedit",),
            ("ft", "ike", "mend", "grace", "balancedit"), ablated("time"),
        ),
        Recipe("balancedit-table6", "Euclidean and cosine distance", _BOTH, ("evqa", "okedit"), _OURS, ablated("distance")),
        Recipe(
            "balancedit-table7", "black and white negative anchor", (MINIGPT4,), ("okedit",), _OURS,
            ablated("anchors", "--values", "black,white"),
        ),
        Recipe(
            "balancedit-table8", "black and random negative anchor", _BOTH, ("okedit",), _OURS,
            ablated("anchors", "--values", "black,random"),
        ),
        Recipe(
            "balancedit-table9", "the last layer and the one before", _BOTH, ("okedit",), _OURS,
            ablated("layer"),
        ),
        Recipe("balancedit-table10", "α = 0 and α = 1", (MINIGPT4,), ("okedit",), _OURS, ablated("alpha")),
        Recipe("balancedit-figure4", "the nearest entry of an answer", (MINIGPT4,), ("okedit",), _OURS, ablated("explain")),
        Recipe("balancedit-figure5", "metrics along α", (MINIGPT4,), ("okedit",), _OURS, ablated("alpha")),
        Recipe("balancedit-figure7", "keys of sequential edits", (MINIGPT4,), ("okedit",), _OURS, ablated("keys")),
        Recipe(
            "devqa-table1", "answers that stay when unattributed tokens are hidden", _BOTH, ("evqa", "vlkeb"), (),
            analysed("masking"), _UNKNOWN,
        ),
        Recipe(
            "devqa-table5", "KL ratio of picture and text tokens (Eq. 17)", _BOTH, ("evqa", "vlkeb"), ("mend", "mend_adv"),
            analysed("kl"), _UNKNOWN,
        ),
        Recipe(
            "devqa-table6", "means over what is edited, with and without the loss, on Qwen-VL", (QWEN,), ("vlkeb",),
            ("mend", "mend_adv"), lambda given, recipe: scored(given, recipe, "--devqa"), _UNKNOWN,
            "the paper has Qwen-VL; Qwen2-VL stands in for it",
        ),
        Recipe(
            "devqa-table7", "every cell of De-VQA, by editor", (BLIP2, MINIGPT4, LLAVA), ("evqa", "vlkeb"), DE_VQA,
            lambda given, recipe: scored(given, recipe, "--devqa"), _UNKNOWN,
        ),
        Recipe(
            "devqa-table8", "reliability, generality, locality and De-VQA's classes, by editor", (BLIP2, MINIGPT4, LLAVA),
            ("evqa", "vlkeb"), DE_VQA, lambda given, recipe: scored(given, recipe, "--devqa"), _UNKNOWN,
            "its class columns are single cells of Table 7 (editors.md, section 0); the page has the classes' means",
        ),
        Recipe(
            "devqa-table9", "which side is edited: language, vision", _BOTH, ("evqa", "vlkeb"), ("ft", "ft_v"), _modules,
            _UNKNOWN, "the paper edits with MEND; here fine-tunes of the same sides stand in for it",
        ),
        Recipe(
            "devqa-table10", "adversarial terms one by one, in pairs, together", _BOTH, ("evqa", "vlkeb"), ("mend_adv",),
            _subsets, _UNKNOWN,
        ),
        Recipe(
            "devqa-figure6", "the picture's share in the attribution, layer by layer", _BOTH, ("evqa", "vlkeb"),
            ("mend", "mend_adv"), analysed("attribution"), _UNKNOWN,
        ),
    )
}  # fmt: skip
"""Name → recipe.  De-VQA's Tables 2 to 4 are settings: those of `vledit editors` and `settings=published`."""


def recipe(name: str) -> Recipe:
    """Raises: UnknownNameError, suggesting the near miss."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
