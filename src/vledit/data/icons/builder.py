"""Build the data set `icons` in the cache: install, match, render, drop repeats, write the index.

Layout under ``<cache>/icons``: ``npm/`` installed packages; ``sets/<set>.zip`` one pack of pictures a
set (stored WebP), ``sets/<set>.npz`` what rendering found out about them; ``index.json`` concepts and
drawings, and the hash of every pack. Each file is written whole or not at all, a set at a time, so a
killed build goes on where it was; a pack whose hash is not the index's is rendered again.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vledit.data.cache import (
    cache_root,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_atomic,
    write_json_atomic,
)
from vledit.data.icons import brands, flags, packages, render, things
from vledit.data.icons.dataset import FORMAT, IconData, load
from vledit.data.icons.exclusions import EXCLUDED, is_excluded
from vledit.data.icons.model import Candidate, Drawing
from vledit.data.icons.sets import BY_NAME, DEMO_SETS, DOMAINS, FACT_PACKAGES, SETS, Domain, IconSet, sets_of
from vledit.data.icons.sources import Source
from vledit.data.icons.splits import HELD_OUT_HANDS, split_of
from vledit.errors import UnknownNameError

_MATCHERS = {"things": things, "flags": flags, "brands": brands}
_DAY = 86_400
_ANY = "any"
Step = Callable[[str], None]


def build(only: Sequence[str] | None = None, progress: bool = True, root: Path | None = None) -> IconData:
    """Build what is missing of the data set and return it.

    only: domains ("things", "flags", "brands") and sets by name, or "demo" for the few sets of the
    demo; None is everything. root: the data set's folder, ``<cache>/icons`` by default. A second
    run checks the hashes and is done. What an earlier build made stays: a part is added to it.
    Raises: UnknownNameError for a name in `only`; PackageError where npm fails.
    """
    root = root or cache_root() / "icons"
    sets, domains = chosen(only)
    plan = _plan_key(sets, domains)
    if is_built(root, _plan_key(SETS, DOMAINS)) or is_built(root, plan):  # the whole serves a part
        return load(root)
    sets, domains = with_earlier(root, sets, domains)
    plan = _plan_key(sets, domains)
    names = {icon_set.package for icon_set in sets}
    names |= {name for domain in domains for name in FACT_PACKAGES[domain]}
    with _shown(progress, len(sets) + 2) as step:
        step("installing packages")
        node_modules = packages.install(names, root / "npm")
        step("matching concepts")
        build_from(node_modules, root, sets, domains, plan, step)
    packages.remove_others(node_modules, root / "npm")
    return load(root)


def build_from(
    node_modules: Path,
    root: Path,
    sets: Sequence[IconSet],
    domains: Sequence[Domain],
    plan: str,
    step: Step = lambda _: None,
) -> None:
    """Build from packages that are installed already: match, render, write the index."""
    sources = [Source(icon_set, node_modules) for icon_set in sets]
    found = list(_candidates(sources, node_modules, domains))
    rows: list[dict[str, Any]] = []
    thumbnails: dict[str, np.ndarray] = {}
    for source in sources:
        step(f"rendering {source.icon_set.name}")
        for row, thumb in render_set(source, found, root / "sets"):
            rows.append(row)
            thumbnails[row["id"]] = thumb
    drawings = choose(rows, thumbnails)
    _write_index(root, plan, found, drawings)
    _remove_old(root)


def chosen(only: Sequence[str] | None) -> tuple[Sequence[IconSet], Sequence[Domain]]:
    """Return (sets, domains) that `only` asks for.

    Raises: UnknownNameError for a name that is no domain and no set.
    """
    if not only:
        return SETS, DOMAINS
    if "demo" in only:
        return tuple(BY_NAME[name] for name in DEMO_SETS), ("brands",)
    for name in only:
        if name not in BY_NAME and name not in DOMAINS:
            raise UnknownNameError("domain or icon set", name, (*DOMAINS, "demo", *BY_NAME))
    domains: Sequence[Domain] = [domain for domain in DOMAINS if domain in only]
    named = tuple(icon_set for icon_set in SETS if icon_set.name in only)
    if not domains:
        domains = [domain for domain in DOMAINS if any(domain in one.domains for one in named)]
    return named or tuple(one for one in SETS if set(domains) & set(one.domains)), domains


def with_earlier(
    root: Path, sets: Sequence[IconSet], domains: Sequence[Domain]
) -> tuple[Sequence[IconSet], Sequence[Domain]]:
    """Return (sets, domains) with those that the index holds already, also where it is outdated or of an older format."""
    try:
        index = json.loads((root / "index.json").read_text(encoding="utf-8"))
        held = {drawing["set"] for drawing in index["drawings"]}
        known = {concept["domain"] for concept in index["concepts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return sets, domains
    names = held | {icon_set.name for icon_set in sets}
    return tuple(one for one in SETS if one.name in names), [d for d in DOMAINS if d in known or d in domains]


def is_built(root: Path, plan: str) -> bool:
    """Tell whether the index is that of `plan` and every pack still has its hash."""
    try:
        index = json.loads((root / "index.json").read_text(encoding="utf-8"))
        return index["plan"] == plan and not damaged(root, index)
    except (OSError, ValueError, KeyError):
        return False


def damaged(root: Path, index: dict[str, Any]) -> list[str]:
    """Return the packs that are missing or whose bytes are not those that were written."""
    return [
        name
        for name, digest in index["packs"].items()
        if not (root / "sets" / name).exists() or sha256_file(root / "sets" / name) != digest
    ]


def render_set(source: Source, found: Iterable[Candidate], folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Render a set's icons into its pack, or read what an earlier run found; yield (row, thumb)."""
    icon_set = source.icon_set
    wanted = [
        (one.concept.id, one.concept.colour, icon) for one in found for name, icon in one.icons if name == icon_set.name
    ]
    version = packages.locked_versions().get(icon_set.package, "")
    base = sha256_json([render.VERSION, version, asdict(icon_set)])
    key = sha256_json([base, wanted])
    # the key is part of the name, so that a build never changes a pack that someone is reading
    pack = folder / f"{icon_set.name}-{key[:12]}.zip"
    notes = pack.with_suffix(".npz")
    known = _read_notes(notes, pack, key)
    if known is None:
        known = _render_all(source, wanted, pack, base, key)
    rows, thumbs = known
    for row, thumb in zip(rows, thumbs, strict=True):
        row["split"] = split_of(icon_set.hand)
        yield row, thumb


def choose(rows: Sequence[dict[str, Any]], thumbs: dict[str, np.ndarray]) -> list[Drawing]:
    """Return the drawings of the concepts that have enough of them, less the repeats.

    Of two that repeat each other the train one stays, so that no held-out drawing was seen.
    """
    by_concept: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_concept[row["concept"]].append(row)
    kept: list[Drawing] = []
    for group in by_concept.values():
        group.sort(key=lambda row: (row["split"] != "train", row["style"] != "colour"))
        pictures = np.stack([thumbs[row["id"]] for row in group])
        kept += [Drawing(**group[index]) for index in render.distinct(pictures)]
    return kept


def _candidates(sources: list[Source], node_modules: Path, domains: Sequence[Domain]) -> Iterator[Candidate]:
    """Yield the concepts with enough drawings; a partial build takes what its sets draw."""
    for domain in domains:
        matcher = _MATCHERS[domain]
        own = [source for source in sources if domain in source.icon_set.domains]
        complete = len(own) == len(sets_of(domain))
        if domain == "brands" and not brands.TABLE.exists():
            continue
        for matched in matcher.candidates(own, node_modules):
            icons = tuple(pair for pair in matched.icons if not is_excluded(domain, *pair))
            one = replace(matched, icons=icons)
            pairs = [(name, BY_NAME[name].style) for name, _ in one.icons]
            if matcher.is_enough(one.concept, pairs) if complete else len(pairs) >= 2:
                yield one


def _render_all(
    source: Source, wanted: list[tuple[str, str, str]], pack: Path, base: str, key: str
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Render what no earlier pack of the same set holds, and write the pack and its notes."""
    icon_set = source.icon_set
    earlier = _earlier_pictures(pack.parent, icon_set.name, base)
    rows: list[dict[str, Any]] = []
    thumbs: list[np.ndarray] = []
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for concept, colour, icon in wanted:
            try:
                one = earlier.get((icon, colour)) or earlier.get((icon, _ANY)) or _render_icon(source, icon, colour)
            except ValueError:
                continue  # empty, or a file that resvg cannot read: as if the set had it not
            file = f"{concept}@{icon}.webp"
            archive.writestr(zipfile.ZipInfo(file), one.webp)
            rows.append(
                {
                    "id": f"{concept}@{icon_set.name}:{icon}",
                    "concept": concept,
                    "set": icon_set.name,
                    "hand": icon_set.hand,
                    "style": one.style,
                    "pack": pack.name,
                    "file": file,
                    "sha256": sha256_bytes(one.webp),
                    "colour": colour if one.style == "mono" else "",
                }
            )
            thumbs.append(one.thumbnail)
    side = render.THUMBNAIL
    table = np.stack(thumbs) if thumbs else np.zeros((0, side, side, 3), np.uint8)
    write_atomic(pack, stream.getvalue())
    header = {"key": key, "base": base, "pack": sha256_bytes(stream.getvalue()), "rows": rows}
    out = io.BytesIO()
    np.savez_compressed(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), thumbs=table)
    write_atomic(pack.with_suffix(".npz"), out.getvalue())
    return rows, table


def _render_icon(source: Source, icon: str, colour: str) -> render.Rendered:
    content = source.picture_bytes(icon)
    return render.render(content, "mono" if b"currentColor" in content else "colour", colour)


def _earlier_pictures(folder: Path, set_name: str, base: str) -> dict[tuple[str, str], render.Rendered]:
    """Return what earlier builds rendered of this set and version, by (icon, colour on the thumbnail)."""
    found: dict[tuple[str, str], render.Rendered] = {}
    for notes in folder.glob(f"{set_name}-????????????.npz"):
        pack = notes.with_suffix(".zip")
        try:
            with np.load(notes, allow_pickle=False) as stored, zipfile.ZipFile(pack) as archive:
                header, thumbs = json.loads(stored["header"].tobytes()), stored["thumbs"]
                if header["base"] != base or sha256_file(pack) != header["pack"]:
                    continue
                for row, thumb in zip(header["rows"], thumbs, strict=True):
                    icon = row["id"].rpartition(":")[2]
                    one = render.Rendered(archive.read(row["file"]), row["style"], thumb)
                    found[icon, row["colour"] if one.style == "mono" else _ANY] = one
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue  # not whole: what it held is rendered again
    return found


def _read_notes(notes: Path, pack: Path, key: str) -> tuple[list[dict[str, Any]], np.ndarray] | None:
    """Return what an earlier run noted, or None where it is another's or its pack is not whole."""
    try:
        with np.load(notes, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            if header["key"] != key or sha256_file(pack) != header["pack"]:
                return None
            return header["rows"], stored["thumbs"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write_index(
    root: Path,
    plan: str,
    found: Iterable[Candidate],
    drawings: list[Drawing],
) -> None:
    drawn = {drawing.concept for drawing in drawings}
    concepts = [asdict(one.concept) for one in found if one.concept.id in drawn]
    packs = sorted({drawing.pack for drawing in drawings})
    content = {"concepts": concepts, "drawings": [asdict(drawing) for drawing in drawings]}
    index = {
        "format": FORMAT,
        "plan": plan,
        "version": sha256_json(content)[:16],
        "packs": {name: sha256_file(root / "sets" / name) for name in packs},
        **content,
    }
    write_json_atomic(root / "index.json", index)


def _remove_old(root: Path) -> None:
    """Remove packs of earlier builds that nobody can still be reading: a day old and not in use."""
    index = json.loads((root / "index.json").read_text(encoding="utf-8"))
    for path in (root / "sets").iterdir():
        unused = f"{path.stem}.zip" not in index["packs"]
        if unused and time.time() - path.stat().st_mtime > _DAY:
            path.unlink()


def _plan_key(sets: Sequence[IconSet], domains: Sequence[Domain]) -> str:
    """Return a hash of all that decides what is built: versions, sets, tables, code version."""
    tables = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (things.TABLE, brands.TABLE)]
    sources = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (things, flags, brands)]
    return sha256_json(
        [
            FORMAT,
            render.VERSION,
            render.MAX_CORRELATION,
            sorted(HELD_OUT_HANDS),
            {domain: sorted(names) for domain, names in EXCLUDED.items()},
            [asdict(one) for one in sets],
            list(domains),
            packages.locked_versions(),
            tables,
            sources,
        ]
    )


@contextmanager
def _shown(progress: bool, total: int) -> Iterator[Step]:
    """Give a function that says what is being done; it moves a bar on where `progress`."""
    if not progress:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("icons: {task.description:32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("starting", total=total)
        started = False

        def step(what: str) -> None:
            nonlocal started
            bar.update(task, description=what, advance=1 if started else 0)
            started = True

        yield step
        bar.update(task, description="done", completed=total)
