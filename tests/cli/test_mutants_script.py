"""benchmarks/mutants.py: the mutants of a function are those that its docstring lists."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mutants.py"
SOURCE = '''
def inside(distance: float, radius: float = 1.0) -> bool:
    """Whether it is at most 2."""
    if not radius:
        raise ValueError(f"{radius + 1}")
    return distance <= radius and any([radius])
'''


def test_each_mutant_changes_one_thing():
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    found = {what: (line, changed) for line, what, changed in mutants.mutants(SOURCE)}
    assert set(found) == {
        "1.0 → 2.0", "not dropped", "return None", "And → Or", "LtE → Lt", "LtE → Gt", "any → all"
    }  # fmt: skip
    line, changed = found["LtE → Gt"]
    assert line == 6
    assert "return distance > radius and any([radius])" in changed

    def called(source: str, *given: float) -> object:
        space: dict = {}
        exec(source, space)
        return space["inside"](*given)

    assert called(SOURCE, 2.0) is False
    assert called(found["1.0 → 2.0"][1], 2.0) is True
    assert called(found["LtE → Lt"][1], 1.0) is False
    assert called(found["And → Or"][1], 2.0) is True
    assert called(found["return None"][1], 1.0) is None
