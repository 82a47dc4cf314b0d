"""Who imports whom, read from the sources: no circles when modules are loaded, one direction where two rooms meet."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def statements(body: Iterable[ast.stmt], everything: bool) -> Iterator[ast.ImportFrom]:
    """The imports of a module; with `everything` also those in functions and for types alone."""
    for node in body:
        if isinstance(node, ast.ImportFrom):
            yield node
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not everything and (typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []), everything)


def imported(module: str, everything: bool) -> set[str]:
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")).body, everything):
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")] if node.level else []
        start = ".".join(filter(None, base)) or node.module or ""
        for alias in node.names:
            found |= {name for name in (f"{start}.{alias.name}", start) if name in MODULES and name != module}
    # `from . import x` names the package, too, which is loaded anyway
    return {name for name in found if MODULES[name].name != "__init__.py"}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in the graph, or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert "vledit.vlm.tail" in imported("vledit.vlm.running", everything=True)  # within a function
    assert "vledit.vlm.tail" not in imported("vledit.vlm.running", everything=False)
    assert "vledit.vlm.hooks" in imported("vledit.vlm.base", everything=False)


def test_no_module_loads_itself_by_a_detour():
    assert circle({name: imported(name, everything=False) for name in MODULES}) == []


def test_prompts_families_and_encoded_know_each_other_in_one_direction():
    """Types and imports within functions count, too."""
    group = {f"vledit.vlm.{name}" for name in ("prompt", "encoded", "families", "prompts")}
    assert circle({name: imported(name, everything=True) & group for name in group}) == []


def test_what_the_model_is_built_on_does_not_know_it():
    """Types and imports within functions count, too."""
    group = {f"vledit.vlm.{name}" for name in ("base", "running", "hooks", "tail", "gradients", "measures", "layered")}
    assert circle({name: imported(name, everything=True) & group for name in group}) == []
    assert "vledit.vlm.base" not in imported("vledit.vlm.tail", everything=True)
