"""The wall of the language around functions that a model wrote: kinds of ways through it."""

from __future__ import annotations

import pytest

from toolgym.sandbox import Sandbox

FORMATS = {
    "super": "class S(str):\n    def f(self, *a):\n        return super().format(*a)\n"
    "q = S(T).f(1)",
    "super, kept": "class S(str):\n    def f(self, a):\n        g = super().format\n"
    "        return g(a)\nq = S(T).f(1)",
    "super, mapped": "class S(str):\n    def format_map(self, m):\n"
    "        return super().format_map(m)\nq = S(T).format_map({'0': 1})",
    "of the class": "q = str.format(T, 1)",
    "of a subclass": "class S(str):\n    pass\nq = S.format(T, 1)",
    "mapped": "q = list(map(T.format, [1]))[0]",
    "partial": "import functools\nq = functools.partial(T.format, 1)()",
    "reduced": "import functools\nq = functools.reduce(str.format, [T, 1])",
    "by name": "q = getattr(T, 'for' + 'mat')(1)",
    "sorted": "q = sorted([1], key=T.format)",
    "in a class": "class K:\n    f = T.format\nq = K().f(1)",
    "default": "def g(f=T.format):\n    return f(1)\nq = g()",
}
TEMPLATES = ["{0.__class__}", "{0.__class__.__mro__}", "{0.__init__.__self__}"]
FAILED = "def tool():\n    try:\n        (1).nope\n    except AttributeError as e:\n"
OBJECTS = [
    "        return str(e.obj)",
    "        return str(getattr(e, 'o' + 'bj'))",
    "        match e:\n            case AttributeError(obj=x):\n                return str(x)",
    "        return str(e.__traceback__)",
    "        return str(e.__context__)",
    "        return str(vars(e))",
    "        return str(e.__dict__)",
    "        return str(e.__reduce__())",
]
TARGETS = {
    "typing.Type[int]._inst": "T = typing.Type[int]\n    T._inst = True",
    "typing.List": "T = typing.List[int]\n    T._inst = True",
    "typing.Dict": "T = typing.Dict\n    T._inst = True",
    "in place": "T = typing.Type[int]\n    T._inst += 1",
    "a loop": "T = typing.Type[int]\n    for T._inst in [True]:\n        pass",
    "a tuple": "T = typing.Type[int]\n    T._inst, x = True, 1",
    "a rest": "T = typing.Type[int]\n    *T._inst, x = True, 1",
    "a comprehension": "T = typing.Type[int]\n    [0 for T._inst in [True]]",
    "a context": "import contextlib\n    T = typing.Type[int]\n"
    "    with contextlib.nullcontext(1) as T._inst:\n        pass",
    "a module": "T = int\n    math.pi = 3",
    "a class of others": "T = int\n    collections.Counter.x = 1",
    "deleted": "T = int\n    del math.pi",
    "a class": "class A:\n        pass\n    T = A()\n    T.__class__ = int",
}


def fails(source: str) -> None:
    result = Sandbox({"tool": source}).call("tool", {})
    assert result.error is not None, result.text


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("way", FORMATS)
def test_no_format_reaches_an_attribute(way: str, template: str) -> None:
    fails(f"T = {template!r}\n{FORMATS[way]}\ndef tool():\n    return str(q)")


@pytest.mark.parametrize("way", OBJECTS)
def test_an_error_gives_no_object_away(way: str) -> None:
    fails(FAILED + way)


@pytest.mark.parametrize("way", TARGETS)
def test_attributes_of_others_cannot_be_set(way: str) -> None:
    fails(
        f"import typing, math, collections\ndef tool():\n    {TARGETS[way]}\n"
        "    return str(T('X', (), {}))"
    )


@pytest.mark.parametrize(
    "source",
    [
        "def tool():\n    return '{:.2f} of {0}'.replace('{0}', 'x').format(2.5)",
        "class P:\n    def __init__(self):\n        self.x = 1\ndef tool():\n    p = P()\n"
        "    p.x += 1\n    return p.x",
        "import collections\ndef tool():\n    return dict(collections.Counter('aab'))",
        "def tool():\n    try:\n        return {}['a']\n    except KeyError as e:\n"
        "        return str(e)",
    ],
)
def test_ordinary_python_works(source: str) -> None:
    assert Sandbox({"tool": source}).call("tool", {}).error is None
