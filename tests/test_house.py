"""The house: who may import whom, how large a file may be, and what is documented."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.sources

ROOT = Path(__file__).parent.parent
FOLDERS = ("toolgym", "envs", "rewards")

# Each room imports only lower floors, or itself; a room is a module beside the face, or a folder
# with what lies directly in it. A new room gets its floor here first.
FLOORS = {
    "errors": 0,
    "toolgym": 1,  # the face: loads the plug-ins by name and the public names on demand
    "_util": 1,
    "messages": 1,
    "registry": 1,
    "scenario": 1,
    "_builtin": 2,
    "_workers": 2,
    "task": 2,
    "tasksource": 3,
    "executors": 3,
    "trajectory": 3,
    "tools": 3,
    "formats": 4,
    "grading": 4,
    "sandbox": 4,
    "tools.calculator": 4,
    "tools.mcp": 4,
    "tools.search.corpora": 4,
    "tools.translator": 4,
    "tools.search": 5,
    "spaces": 5,
    "episodes": 5,
    "sequential": 5,
    "env": 6,
    "checks": 7,
    "policies": 7,
    "vector": 7,
    "policies.local": 8,
    "rollouts": 8,
    "data": 9,
    "serving": 9,
    "evaluation": 10,
    "training": 11,
    "modeldiff": 11,
    "auditing": 11,
    "bridges": 12,
    "selftrain": 12,
    "viewer": 12,
    "cli": 13,
    "miniature": 13,  # a job over the environments, reached through its registered preset
}

# Rooms on one floor do not know each other, but for these.
NEIGHBOURS = {
    "_builtin": {"registry"},
    "_util": {"toolgym"},
    "env": {"spaces"},
    "messages": {"_util"},
    "scenario": {"_util"},
    "policies": {"vector"},
    "task": {"trajectory"},
    "toolgym": {"registry"},
}

# Rooms of envs, and what each may import of the others.
ENV_ROOMS: dict[str, set[str]] = {
    "envs": set(),
    "envs.toolbfcl": set(),
    "envs.toolqa": set(),
    "envs.toolscenario": set(),
    "envs.toolscenario.worlds": set(),
    "envs.toolscenario.codegen": {"envs.toolscenario", "envs.toolscenario.worlds"},
    "envs.toolscenario.compiler": {"envs.toolscenario"},
    "envs.toolscenario.authors": set(),
    "envs.toolscenario.authors.llm": {"envs.toolscenario", "envs.toolscenario.compiler"},
    "envs.toolscenario.authors.stateful": {"envs.toolscenario"},
    "envs.toolscenario.authors.template": {
        "envs.toolscenario",
        "envs.toolscenario.codegen",
        "envs.toolscenario.compiler",
        "envs.toolscenario.worlds",
    },
}

# Folders below a wing: two levels, but where the third is the field's own.
DEEP = ("toolgym/tools/search/corpora", "envs/toolscenario/authors")


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
    """The longest name of a room that a dotted module or public name lies in."""
    parts = module.split(".")
    if parts[0] == "toolgym":
        parts = parts[1:]
    if len(parts) == 1 and parts[0] in public_names():
        parts = public_names()[parts[0]].split(".")
    while parts and ".".join(parts) not in FLOORS | ENV_ROOMS.keys() and parts[0] != "rewards":
        parts = parts[:-1]
    return "rewards" if parts[:1] == ["rewards"] else ".".join(parts) or "toolgym"


def public_names() -> dict[str, str]:
    """Public names of the face to the modules that hold them."""
    import toolgym

    return dict(toolgym._EXPORTS)


def own_room(path: Path) -> str:
    """The room of a file: its folder, or its own name beside the face."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    wing = parts[1:] if parts[0] == "toolgym" else parts
    if len(wing) == 1:
        return "toolgym" if wing == ("__init__",) else wing[0]
    return ".".join(wing[:-1])


@pytest.mark.parametrize("path", sources("toolgym"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_lower_floors(path: Path) -> None:
    mine = own_room(path)
    assert mine in FLOORS, f"give {mine!r} a floor in this file"
    for module in imported(ast.parse(path.read_text())):
        other = room(module)
        assert other in FLOORS, f"{path.name} imports {module}: that is not a room of the core"
        beside = other == mine or other in NEIGHBOURS.get(mine, ())
        assert beside or FLOORS[other] < FLOORS[mine], (
            f"{mine} (floor {FLOORS[mine]}) imports {module} (floor {FLOORS[other]})"
        )


@pytest.mark.parametrize("path", sources("envs"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_of_envs_imports_only_those_it_stands_on(path: Path) -> None:
    mine = own_room(path)
    mine = "envs" if mine == "__init__" else mine
    assert mine in ENV_ROOMS, f"say in this file what {mine!r} may import"
    for module in imported(ast.parse(path.read_text())):
        other = room(module)
        if other in ENV_ROOMS and other != mine:
            assert other in ENV_ROOMS[mine], f"{mine} imports {module}"


def test_no_circle_between_rooms() -> None:
    edges: dict[str, set[str]] = {}
    for path in FILES:
        mine = own_room(path)
        found = {room(module) for module in imported(ast.parse(path.read_text()))}
        edges.setdefault(mine, set()).update(found - {mine, "toolgym"})
    done: set[str] = set()
    while ready := {
        name for name in edges if name not in done and edges[name] & edges.keys() <= done
    }:
        done |= ready
    assert done == edges.keys(), f"in a circle: {sorted(edges.keys() - done)}"


def test_folders_are_two_deep() -> None:
    for path in FILES:
        below = path.relative_to(ROOT)
        deep = 4 if str(below).startswith(DEEP) else 3
        assert len(below.parts) - 1 <= deep, f"{below}: too many folders"


def test_the_root_holds_the_words_and_the_loop() -> None:
    assert len(list((ROOT / "toolgym").glob("*.py"))) <= 12


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


# Walls that leak through strings: a room that knows another one without importing it.

CORE = [path for path in sources("toolgym") if own_room(path) != "miniature"]
each_core_file = pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The code of a file without its docstrings, which may speak of everything."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [n for n in body if not (isinstance(n, ast.Expr) and is_text(n.value))]
            node.body = kept or [ast.Pass()]
    return tree


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def texts(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if is_text(node)}


def words(node: ast.AST) -> frozenset[str]:
    """The strings of a literal collection, also of one that is unpacked inside it."""
    if isinstance(node, ast.Dict):
        return frozenset().union(*(words(key) for key in node.keys if key is not None))
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return frozenset().union(*map(words, node.elts))
    if isinstance(node, ast.Starred):
        return words(node.value)
    return frozenset({node.value}) if is_text(node) else frozenset()


@pytest.mark.parametrize(
    "path", [*CORE, *sources("rewards")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_core_and_rewards_name_no_environment_of_a_wing(path: Path) -> None:
    from toolgym.registry import ENVIRONMENTS

    families = {name.partition("-")[0] for name in ENVIRONMENTS}
    for text in texts(parsed(path)):
        named = [family for family in families if family in text]
        assert not named, f"{text!r} names {named}: ask the registry, or let a plug-in register it"


@each_core_file
def test_only_the_registry_says_which_environments_are_ours(path: Path) -> None:
    tree = parsed(path)
    asking = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and is_text(n.left)]
    for node in asking:
        parts = isinstance(node.ops[0], ast.In | ast.NotIn) and "toolgym" in node.left.value
        assert not parts, f"{ast.unparse(node)}: a name is not a mark of whose something is"
    if path.name not in ("registry.py", "playing.py"):
        code = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "gym.registry" not in code, "ask toolgym.registry.ENVIRONMENTS"


@each_core_file
def test_no_room_reaches_behind_a_function(path: Path) -> None:
    if own_room(path) in ("sandbox", "_util"):  # the one refuses such names, the other hashes code
        return
    if path.name in ("keeping.py", "tool_child.py"):  # what a tool's function keeps is read there
        return
    behind = {"__self__", "__func__", "__closure__", "__globals__"}
    tree = parsed(path)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | texts(tree)
    assert not used & behind, "what another room needs to know is declared where it registers"


def test_public_words_stand_in_one_room() -> None:
    found: dict[frozenset[str], set[str]] = {}
    public: dict[frozenset[str], str] = {}
    for path in FILES:
        tree, where = parsed(path), str(path.relative_to(ROOT))
        types = {n.slice for n in ast.walk(tree) if isinstance(n, ast.Subscript)}  # of Literal
        for node in set(ast.walk(tree)) - types:
            if not isinstance(node, ast.Dict) and len(words(node)) > 2:
                found.setdefault(words(node), set()).add(own_room(path))
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
                if name.isupper() and not name.startswith("_") and words(node.value) in found:
                    public[words(node.value)] = f"{name} of {where}"
    for listed, name in public.items():
        rooms = found[listed]
        assert len(rooms) == 1, f"{name} is copied: {sorted(rooms)}"


@each_core_file
def test_columns_are_read_where_they_are_declared(path: Path) -> None:
    from toolgym.task import SUB_ANSWERS

    if path.name == "task.py":
        return
    tree = parsed(path)
    assert SUB_ANSWERS not in texts(tree), "ask Task.sub_answers"
    for node in ast.walk(tree):
        read = None
        if isinstance(node, ast.Subscript) and is_text(node.slice):
            read = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            read = node.func.value if node.func.attr == "get" and is_text(node.args[0]) else None
        metadata = isinstance(read, ast.Attribute) and read.attr == "metadata"
        assert not metadata, f"{ast.unparse(node)}: a column that code reads is a field of Task"


@pytest.mark.parametrize("path", sources("toolgym"), ids=lambda p: str(p.relative_to(ROOT)))
def test_records_of_scenarios_are_not_written_by_hand(path: Path) -> None:
    from toolgym import scenario
    from toolgym.task import Task

    own = set(scenario.Scenario.model_fields) - set(Task.__dataclass_fields__) - {"schema"}
    if path.name == "scenario.py" and own_room(path) == "scenario":
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Dict):
            by_hand = sorted(words(node) & own)
            assert len(by_hand) < 3, f"line {node.lineno}: {by_hand} are fields of Scenario"


@each_core_file
def test_the_core_knows_no_data_set_and_no_corpus_of_a_wing(path: Path) -> None:
    from toolgym.envs.toolqa import families
    from toolgym.registry import CORPORA

    hubs = {getattr(families, name).hub.path for name in families.__all__}
    tree = parsed(path)
    assert not texts(tree) & hubs, "an environment declares its sources where it is registered"
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and texts(node) & set(CORPORA):
            text = ast.unparse(node)
            about = "corpus" in text or "searched" in text
            assert not about, f"{text}: ask toolgym.registry.CORPORA"


# Rooms that know single tools: their own, the command line, and what is fetched before a run.
KNOW_TOOLS = ("tools", "cli", "selftrain")


@each_core_file
def test_figures_and_training_know_no_single_tool(path: Path) -> None:
    mine, tree = own_room(path), ast.parse(path.read_text())
    if mine.split(".")[0] not in KNOW_TOOLS:
        tools = ("tools.calculator", "tools.search", "tools.translator")
        known = [module for module in imported(tree) if room(module).startswith(tools)]
        assert not known, f"{mine} imports {known}: what a tool says of a result is its field"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            judged = ast.unparse(node.func)
            words_of = judged.endswith((".content.startswith", ".content.endswith"))
            here = mine == "trajectory" and "_of_1" in path.read_text()  # texts of old files
            assert here or not words_of, f"{judged}(): what a result is stands in its fields"


@each_core_file
def test_the_miniature_is_reached_through_its_preset(path: Path) -> None:
    if own_room(path) != "_builtin":
        tree = parsed(path)
        named = [text for text in texts(tree) if "miniature" in text]
        named += [module for module in imported(tree) if room(module) == "miniature"]
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        named += [name for name in names if "miniature" in name.casefold()]
        assert not named, f"{named}: ask toolgym.registry.PRESETS"
