"""Calls of published rows against a literal restatement of the published executor."""

from __future__ import annotations

import json
import random
import sys
from copy import deepcopy
from hashlib import sha256
from time import sleep
from typing import Any

import pytest

from toolgym.envs.toolscenario.tool import PUBLISHED, make_tools, sandbox_for
from toolgym.messages import ToolCall
from toolgym.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

BODIES = {
    "default": "(x=3, y=None):\n    return y",
    "same": "(x=None, y=None):\n    return x",
    "add": "(x, y=1):\n    return x + y",
    "key": "(x, y='k'):\n    return {'k': x, 1: None}[y]",
    "table": "(x, y=None):\n    return {'é': x, 'y': [y, float('nan')]}",
    "hashed": "(x, y=0):\n    return sha256(json.dumps(deepcopy([x, y])).encode()).hexdigest()",
    "slept": "(x=0, y=0):\n    sleep(0)\n    return x == y",
    "pair": "(x, y=2):\n    return x, y",
    "setting": "(x, y=2):\n    return [{x}, y]",
    "raised": "(x, y='no'):\n    raise ValueError(y) if x else KeyError(y)",
    "silent": "(x, y=0):\n    raise ValueError()",
    "number": "(x=1.5, y=2):\n    from decimal import Decimal\n    return Decimal(str(x)) / y",
    "text": "(x, y='a'):\n    return str(x).upper() + y",
    "deep": "(x, y=0):\n    return deep(x, y)",
    "order": "(x, y=0):\n    import collections\n    return collections.OrderedDict(a=x)",
}
ODD = {
    "broken": "def broken(:\n    pass",
    "missing": "x = 1",
    "variable": "variable = 7",
    "early": "raise RuntimeError('at once')",
    "imports": "import hashlib, time\nfrom copy import deepcopy as d\n\ndef imports():\n"
    "    return d([hashlib.sha256(b'a').hexdigest(), time.strftime('', time.gmtime(0))])",
}
SOURCES = {name: f"def {name}{body}" for name, body in BODIES.items()} | ODD
VALUES = (None, True, 0, 1, -2.5, "", "k", "Zürich", [1, "a"], {"a": None}, "1,000", 10**20)


def published(name: str, arguments: dict[str, Any]) -> str:
    """The text that the authors' code gives back, with the scope that their module has."""
    scope: dict[str, Any] = {"json": json, "deepcopy": deepcopy, "sha256": sha256, "sleep": sleep}
    try:
        exec(SOURCES[name], scope)
        if name not in scope:
            raise NameError(f"name {name} is not defined")
        value = scope[name](**arguments)
        if type(value) in (dict, list):
            return json.dumps(value, ensure_ascii=False)
        return value if type(value) is str else str(value)
    except Exception as error:
        return f"an error occured when call {name}: {error}"


def test_ten_thousand_calls_give_the_published_texts() -> None:
    rng, box, kinds, tried = random.Random(0), sandbox_for(SOURCES, PUBLISHED), set(), 0
    for name in BODIES:
        asked = [
            {key: rng.choice(VALUES) for key in rng.choice(("x", "x", "xy", "xy", "y", "", "xz"))}
            for _ in range(700 if name != "deep" else 300)
        ]
        for arguments, result in zip(asked, box.call_many(name, asked), strict=True):
            wanted = published(name, arguments)
            said = json.loads(result.text) if result.error is None else result.text
            frame = f"an error occured when call {name}: " if result.error else ""
            assert frame + said == wanted, (name, arguments)
            kinds.add((name, result.error))
            tried += 1
    assert tried >= 10_000
    assert {("default", None), ("key", "exception"), ("setting", "exception")} <= kinds


def test_one_call_at_a_time_through_the_tools_of_a_row() -> None:
    documents = [
        {"name": name, "description": "Do.", "parameters": {"type": "object", "required": ["q"]}}
        for name in SOURCES
    ]
    tools = make_tools(documents, SOURCES, published=True)
    for name in SOURCES:
        for arguments in ({}, {"x": 1, "y": "k"}) if name in BODIES else ({},):
            (result,) = tools.execute([ToolCall("c", name, arguments)])
            assert result.content == published(name, arguments)
            assert (result.error is not None) == result.content.startswith("an error occured")
    (unknown,) = tools.execute([ToolCall("c", "other", {})])
    assert unknown.content == "an error occured when call other: 'other'"


def test_a_sleeping_call_ends_at_its_deadline_in_the_published_words() -> None:
    source = "def nap(x):\n    sleep(1e6)"
    documents = [{"name": name, "description": "Do.", "parameters": {}} for name in ("nap", "none")]
    tools = make_tools(documents, {"nap": source}, {"timeout": 0.3}, published=True)
    nap, none = tools.execute([ToolCall("a", "nap", {"x": 1}), ToolCall("b", "none", {})])
    assert (nap.error, none.content) == ("timeout", "an error occured when call none: 'none'")
    assert nap.content == (
        "an error occured when call nap: Function call_function "
        f"(args={('nap', {'x': 1}, source)!r}) (kwargs={{}}) timed out after 0.300000 seconds.\n"
    )


def test_neither_names_nor_modules_are_there_for_our_own_functions() -> None:
    for line in ("sha256(b'')", "sleep(0)", "deepcopy(1)", "json.dumps(1)"):
        result = Sandbox({"f": f"def f():\n    return {line}"}).call("f", {})
        assert "NameError" in result.text
    for module in ("hashlib", "time"):
        assert Sandbox({"f": f"import {module}\ndef f(): pass"}).call("f", {}).error == "refused"
    attack = "def f():\n    return sha256.__class__"
    assert "not available" in Sandbox({"f": attack}, published=True).call("f", {}).text
    attack = "import time\ndef f():\n    time.sleep = 1"
    assert "cannot be set" in Sandbox({"f": attack}, published=True).call("f", {}).text
