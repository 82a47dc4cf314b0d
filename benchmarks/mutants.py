"""A mutation run: change one thing in a file at a time, and see whether its tests notice.

    PYTHONPATH=src python benchmarks/mutants.py src/vledit/codebook/relation.py tests/codebook -k relation

What follows the file goes to pytest: choose tests that take about a second.

Mutants: a comparison turned or moved by its edge, `and` for `or`, `not` dropped, another operator of arithmetic, a number
moved by one, True for False, `min` for `max`, `any` for `all`, a returned value replaced by None. Nothing in docstrings,
annotations or error messages is changed. Run it in a clean checkout that nothing else uses: the file is rewritten for
each mutant, and put back at the end.

The libraries are imported once, by a first run without a mutant; each mutant's tests run in a child process, which is
given `--limit` seconds. A mutant that runs longer counts as killed, and is listed. Needs a system with `fork`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMPARED: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
}  # fmt: skip
COUNTED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}

Change = Callable[[Any], None]


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """The mutants of one node: what is changed, and the function that does it to a copy of the node."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARED.get(type(operator), []):
                yield f"{type(operator).__name__} → {other.__name__}", _put("ops", place, other())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} → {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        # `not not x`: the truth value of x, so nothing around it changes its type
        yield "not dropped", lambda n: setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand))
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in COUNTED:
        counted = COUNTED[type(node.op)]
        yield f"{type(node.op).__name__} → {counted.__name__}", lambda n: setattr(n, "op", counted())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} → {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield f"{node.value} → {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Name) and node.id in SWAPPED:
        yield f"{node.id} → {SWAPPED[node.id]}", lambda n: setattr(n, "id", SWAPPED[n.id])
    elif isinstance(node, ast.Return) and node.value and not _none(node.value):
        yield "return None", lambda n: setattr(n, "value", ast.Constant(None))


def _put(field: str, place: int, value: ast.AST) -> Change:
    return lambda n: getattr(n, field).__setitem__(place, value)


def _none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def walked(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes whose change could be seen by a test: no annotations, decorators, raised errors, f-strings."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise | ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walked(child)


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, what is changed, and the changed source, for each mutant of a file."""
    tree = ast.parse(source)
    for number, node in enumerate(walked(tree)):
        for what, change in changes(node):
            changed = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(walked(changed)) if i == number))
            yield getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(changed))


def passes(tests: list[str]) -> bool:
    """Run the tests in this process."""
    return int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider"])) == 0


def tested(tests: list[str], limit: float) -> str:
    """Run the tests in a child process: "passed", "failed" or "too long"."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        passed = False
        try:
            passed = passes(tests)
        finally:
            os._exit(not passed)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "passed" if status == 0 else "failed"
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "too long"


def ours(module: Any) -> bool:
    """Whether a module is of this checkout, tests and their helpers included."""
    path = Path(getattr(module, "__file__", None) or "/")
    return (
        path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts and module is not sys.modules["__main__"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("tests", nargs=argparse.REMAINDER, help="arguments of pytest")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that one mutant's tests may take")
    parser.add_argument("--lines", nargs="+", type=int, help="only the mutants of these lines")
    options = parser.parse_args()
    source = options.file.read_text()
    chosen = [m for m in mutants(source) if not options.lines or m[0] in options.lines]
    if not passes(options.tests):
        parser.exit(1, "The tests fail without any mutant.\n")
    for name in [name for name, module in sys.modules.items() if ours(module)]:
        del sys.modules[name]  # imported anew with each mutant; other libraries stay
    sys.dont_write_bytecode = True  # a mutant of the same size and second must not be read from a cache
    if tested(options.tests, options.limit) != "passed":
        parser.exit(1, "The tests pass, but not a second time in a child process, or not within --limit.\n")
    results: dict[str, int] = {}
    try:
        for line, what, changed in chosen:
            options.file.write_text(changed)
            result = tested(options.tests, options.limit)
            results[result] = results.get(result, 0) + 1
            print(end=".", file=sys.stderr, flush=True)
            if result != "failed":
                text = source.splitlines()[line - 1].strip()
                print(f"{result}: {options.file}:{line}: {what}: {text}", flush=True)
    finally:
        options.file.write_text(source)
    killed = results.get("failed", 0) + results.get("too long", 0)
    print(f"{options.file}: {len(chosen)} mutants, {killed} killed, {results.get('passed', 0)} survived")


if __name__ == "__main__":
    main()
