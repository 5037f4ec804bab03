"""The house: who may import whom, how large a file may be, and what is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.sources

ROOT = Path(__file__).parent.parent
FOLDERS = ("toolgym", "envs", "rewards")

# Each module imports only lower floors, or its own. A new module gets its place here first.
FLOORS = {
    "toolgym": 1,  # the face: loads the plug-ins by name and the public names on demand
    "_optional": 0,
    "_docstring": 0,
    "_folding": 0,
    "_arguments": 1,
    "_cache": 1,
    "_cachefolder": 0,
    "_jsonl": 1,
    "_process": 1,
    "_worker": 1,
    "_worker_child": 1,
    "errors": 0,
    "registry": 1,
    "messages": 1,
    "intervals": 1,
    "svg": 1,
    "tables": 1,
    "assignment": 1,
    "_matching": 1,
    "_builtin": 2,
    "toolset": 2,
    "task": 2,
    "trajectory": 2,
    "answers": 2,
    "calls": 2,
    "solving": 2,
    "solve_scoring": 2,
    "cassette": 2,
    "faults": 2,
    "service": 3,
    "formats": 3,
    "reward": 3,
    "spaces": 4,
    "env": 4,
    "vector": 4,
    "sandbox": 4,
    "corpora": 4,
    "mathematics": 4,
    "searching": 4,
    "translation": 4,
    "tools": 5,
    "policies": 5,
    "runs": 6,
    "rollouts": 6,
    "scoring": 6,
    "filtering": 6,
    "conditions": 6,
    "_probes": 4,
    "_adversaries": 4,
    "checks": 6,
    "probing": 6,
    "conversations": 7,
    "pairing": 7,
    "prefixes": 7,
    "exporting": 7,
    "evaluation": 7,
    "miniature": 8,
    "training": 8,
    "comparing": 8,
    "study": 8,
    "cli": 9,
    "__main__": 9,
}

# Rooms on one floor do not know each other, but for these.
NEIGHBOURS = {
    "mathematics": {"sandbox"},
    "searching": {"corpora"},
    "comparing": {"training"},
    "study": {"miniature", "training"},
    "training": {"miniature"},  # what `selftrain` trains where no model is named
}

# Rooms of envs, and what each may import of the others; the families beside them import none.
ENV_ROOMS: dict[str, set[str]] = {
    "scenarios": set(),
    "worlds": set(),
    "compiler": {"scenarios"},
    "toolmaking": {"scenarios", "worlds"},
    "offline": {"scenarios", "toolmaking", "worlds"},
    "endpoint": {"compiler", "scenarios"},
}


def sources(folder: str) -> list[Path]:
    """Python files under a root folder, without those behind the two links."""
    base = ROOT / folder
    linked = {base / "envs", base / "rewards"} if folder == "toolgym" else set()
    return sorted(p for p in base.rglob("*.py") if not linked & set(p.parents))


FILES = [path for folder in FOLDERS for path in sources(folder)]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of toolgym modules that are imported when the code runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FOLDERS)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if node.module.split(".")[0] in FOLDERS:
                # `from toolgym import registry` may name a module, `from toolgym import score` a
                # public name: both are judged by what lies behind.
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def room(module: str) -> str:
    """The first name below toolgym that has a floor, or ``envs``/``rewards``."""
    parts = module.split(".")
    if parts[0] != "toolgym" or len(parts) == 1:
        return parts[0]
    behind = public_names().get(parts[1], parts[1])
    known = behind in FLOORS or behind in FOLDERS
    return behind if known or len(parts) > 2 else "toolgym"


def public_names() -> dict[str, str]:
    """Public names of the face to the modules that hold them."""
    import toolgym

    return dict(toolgym._EXPORTS)


def own_room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "toolgym" or parts[1] == "__init__" else parts[1]


@pytest.mark.parametrize("path", sources("toolgym"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_its_own_floor_and_lower_ones(path: Path) -> None:
    mine = own_room(path)
    assert mine in FLOORS, f"give {mine!r} a floor in this file"
    for module in imported(ast.parse(path.read_text())):
        other = room(module)
        assert other in FLOORS, f"{path.name} imports {module}: that is no room of the core"
        assert other == mine or FLOORS[other] <= FLOORS[mine], (
            f"{mine} (floor {FLOORS[mine]}) imports {module} (floor {FLOORS[other]})"
        )
        beside = other != mine and FLOORS[other] == FLOORS[mine]
        if beside and (ROOT / "toolgym" / other).is_dir():
            assert other in NEIGHBOURS.get(mine, ()), (
                f"{mine} imports {module}: rooms on one floor do not know each other"
            )


@pytest.mark.parametrize("path", sources("envs"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_of_envs_imports_only_those_it_stands_on(path: Path) -> None:
    mine = path.relative_to(ROOT).parts[1]
    if path.parent != ROOT / "envs":
        assert mine in ENV_ROOMS, f"say in this file what {mine!r} may import"
    for module in imported(ast.parse(path.read_text())):
        other = module.split(".")[2:3] if module.startswith("toolgym.envs.") else []
        for name in ENV_ROOMS.keys() & {*other} - {mine}:
            assert name in ENV_ROOMS.get(mine, ()), f"{mine} imports {module}"


def test_no_folder_lies_in_a_folder_of_a_folder() -> None:
    for path in FILES:
        assert len(path.relative_to(ROOT).parts) <= 3, f"{path}: folders are one deep"


@pytest.mark.parametrize("folder", ["envs", "rewards"])
def test_envs_and_rewards_do_not_know_each_other(folder: str) -> None:
    other = {"envs": "rewards", "rewards": "envs"}[folder]
    for path in sources(folder):
        for module in imported(ast.parse(path.read_text())):
            assert room(module) != other, f"{path} imports {module}"
            assert module.split(".")[0] == "toolgym", (
                f"{path} imports {module}, not toolgym.{module}"
            )


@each_file
def test_no_file_is_over_400_lines_and_no_function_over_60(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False) or ""
            lines -= docstring.count("\n") + 1  # a contract may be long, code may not
            assert lines <= 60, f"{node.name} has {lines} lines"


def public_definitions(tree: ast.Module) -> Iterator[ast.AST]:
    """Public functions, classes and methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, kinds) and not inner.name.startswith("_"):
                    yield inner


@each_file
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module says what it is in its first line"
    for node in public_definitions(tree):
        decorators = [ast.unparse(item) for item in getattr(node, "decorator_list", ())]
        if "overload" not in decorators:
            assert ast.get_docstring(node), f"{node.name} has no docstring"
