"""``toolgym new env``: a small package to begin an environment of one's own with."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from toolgym.cli.shell import table
from toolgym.errors import BadInputError
from toolgym.registry import ENVIRONMENTS

__all__ = ["new_app", "write_package"]

new_app = typer.Typer(help="Begin something of your own.")


@new_app.callback()
def _start() -> None:
    """Begin something of your own."""


@new_app.command("env")
def new_env(
    name: Annotated[str, typer.Argument(help="Of the package, such as shop; gives Shop-v0.")],
    folder: Annotated[Path, typer.Option("--in", help="Where its folder is made.")] = Path(),
) -> None:
    """Write a package with tasks, a tool, a session, a reward, a policy and a test that passes."""
    made = write_package(name, folder)
    title = _title(name)
    print(table([(str(path.relative_to(folder)),) for path in sorted(made.rglob("*.*"))]))
    print(f"\nnext: cd {made} && pip install -e . && pytest")
    print(f"      toolgym rollout {title}-v0 --policy {name}.policy:shopper --out runs/first")


def write_package(name: str, folder: Path) -> Path:
    """Write the package of an environment.

    Args:
        name: of the package: a Python name in small letters.
        folder: in which its folder is made.

    Returns:
        The package's folder.

    Raises:
        BadInputError: not such a name, one that is taken, or a folder that is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BadInputError(
            f"{name!r} cannot be the name of a package: small letters, digits and _, beginning "
            "with a letter, such as 'shop' or 'web_shop', and no word of Python itself"
        )
    target, title = folder / name, _title(name)
    if target.exists() or target.is_symlink():
        raise BadInputError(
            f"{str(target)!r} exists: choose another name, or another folder (--in)"
        )
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise BadInputError(f"a module {name!r} can be imported already: choose another name")
    if f"{title}-v0" in ENVIRONMENTS:
        raise BadInputError(f"environment '{title}-v0' is there already: choose another name")
    if not folder.is_dir():
        raise BadInputError(f"there is no folder {str(folder)!r}")
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))  # whole or not at all
    try:
        for file, text in _FILES.items():
            path = work / "made" / file.replace("NAME", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("NAME", name).replace("TITLE", title), encoding="utf-8")
        (work / "made").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _title(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "NAME"
version = "0.1.0"
description = "TITLE-v0: an environment of toolgym"
requires-python = ">=3.11"
dependencies = ["toolgym"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."toolgym.plugins"]
NAME = "NAME:register"

[tool.setuptools]
packages = ["NAME"]

[tool.setuptools.package-data]
NAME = ["*.jsonl"]
"""

_README = """# NAME

`TITLE-v0`, an environment of [toolgym](https://pypi.org/project/toolgym): a shop with a cart that
remembers.

```bash
pip install -e . && pytest
toolgym rollout TITLE-v0 --policy NAME.policy:shopper --out runs/first
toolgym eval runs/first
```

- `NAME/tasks.jsonl`: what is asked; columns beside `id`, `question`, `answers` reach tools and
  rewards as metadata.
- `NAME/environment.py`: a tool (`price`), a session with a state (`Cart`), a reward, and the
  environment.
- `NAME/policy.py`: a policy of rules that solves the tasks, to test with.
"""

_INIT = '''"""TITLE-v0: an environment of toolgym."""


def register() -> None:
    """Add the names; what stands behind them is imported when it is used."""
    from toolgym.registry import ENVIRONMENTS, REWARDS, TOOLS  # importing it calls this function

    TOOLS.add("TITLEPrice", "NAME.environment:price", about="what goods cost")
    REWARDS.add("NAME_cart", "NAME.environment:cart", about="1 when the cart is as asked for")
    ENVIRONMENTS.add("TITLE-v0", "NAME.environment:make", about="a shop with a cart")
'''

_TASKS = """\
{"id": "tea", "question": "Put 2 tea into the cart. What does it cost?", \
"answers": ["6"], "answer_type": "number", "cart": {"tea": 2}}
{"id": "lamp", "question": "Put 1 lamp and 3 tea into the cart. What does it cost?", \
"answers": ["29"], "answer_type": "number", "cart": {"lamp": 1, "tea": 3}}
{"id": "books", "question": "Put 2 book into the cart. What does it cost?", \
"answers": ["24"], "answer_type": "number", "cart": {"book": 2}}
"""

_ENVIRONMENT = '''"""The shop: a tool, a session that remembers, a reward, and their environment."""

import toolgym
from toolgym import tool
from toolgym.envs.toolqa.family import Family
from toolgym.registry import Resource

PRICES = {"tea": 3, "lamp": 20, "book": 12}


@tool(name="TITLEPrice")
def price(item: str) -> int:
    """Tell what one piece of something costs.

    Args:
        item: such as tea.
    """
    if item not in PRICES:
        raise toolgym.ToolError(f"there is no {item!r}; goods: {', '.join(PRICES)}")
    return PRICES[item]


class Cart(toolgym.ToolSession):
    """The cart of one episode; its attributes are the state, which rewards can see."""

    def __init__(self, task):
        self.cart = {}

    @tool
    def add(self, item: str, amount: int = 1) -> str:
        """Put goods into the cart.

        Args:
            item: such as tea.
            amount: how many.
        """
        if item not in PRICES or amount < 1:
            raise toolgym.ToolError(f"goods: {', '.join(PRICES)}; an amount is at least 1")
        self.cart[item] = self.cart.get(item, 0) + amount
        return f"{self.cart[item]} {item} in the cart"


def cart(task, trajectory):
    """1 at the step that makes the cart what is asked for, -1 at one that spoils it again."""
    wanted = task.metadata.get("cart")  # None: a task of somebody else
    states = [trajectory.state_after(step) for step in range(len(trajectory.steps) + 1)]
    right = [float(bool(state and wanted) and state.get("cart") == wanted) for state in states]
    return [after - before for before, after in zip(right, right[1:])]


FAMILY = Family(
    "TITLE",
    sample=Resource("NAME", "tasks.jsonl"),
    reward={"accuracy": 0.5, "NAME_cart": 0.5},
)


def make(tools=None, format="hermes", **arguments):
    """TITLE-v0; the arguments are those of toolgym's environments of questions and answers."""
    chosen = ["TITLEPrice", Cart] if tools is None else tools
    return FAMILY.make(tools=chosen, format=format, **arguments)
'''

_POLICY = '''"""A policy of rules: puts what is asked for into the cart, and adds the prices up."""

import json
import re


def shopper(messages, tools):
    """One turn: the calls that are still to be made, or the answer."""
    asked = next(message["content"] for message in messages if message["role"] == "user")
    wanted = {item: int(count) for count, item in re.findall(r"(\\d+) (tea|lamp|book)", asked)}
    turn = sum(message["role"] == "assistant" for message in messages)
    if turn == 0:
        return "".join(call("add", item=item, amount=count) for item, count in wanted.items())
    if turn == 1:
        return "".join(call("TITLEPrice", item=item) for item in wanted)
    told = [int(number) for number in re.findall(r"\\d+", messages[-1]["content"])]
    return str(sum(count * price for count, price in zip(wanted.values(), told)))


def call(name, **arguments):
    """A call as the format hermes has it."""
    written = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{written}</tool_call>"
'''

_TEST = '''"""TITLE-v0: its contract, its tool, and what its reward says."""

import gymnasium
import toolgym
from toolgym.checks import check_env, check_reward

from NAME.environment import cart, price
from NAME.policy import shopper


def test_the_contract():
    check_env(gymnasium.make("TITLE-v0").unwrapped)
    check_reward(cart)


def test_the_tool():
    assert price(item="tea") == 3


def test_a_policy_that_does_it_right_gets_it_all():
    run = toolgym.rollout("TITLE-v0", shopper)
    assert len(run) == 3
    assert {trajectory.reward for trajectory in run} == {1.0}


def test_a_policy_that_only_guesses_gets_nothing():
    run = toolgym.rollout("TITLE-v0", lambda messages, tools: "I do not know.")
    assert {trajectory.reward for trajectory in run} == {0.0}
'''

_FILES = {
    "pyproject.toml": _PROJECT,
    "README.md": _README,
    "NAME/__init__.py": _INIT,
    "NAME/tasks.jsonl": _TASKS,
    "NAME/environment.py": _ENVIRONMENT,
    "NAME/policy.py": _POLICY,
    "tests/test_NAME.py": _TEST,
}
