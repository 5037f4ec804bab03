"""Docstrings of four styles, and of none, as the documentation of tools."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.tools.base import Tool
from toolgym.tools.docstring import read_docstring

GOOGLE = """Distance between two cities.

    Along the great circle, whatever the roads are.

    Args:
        start (str): where from; in any
            country.
        end: where to: the second city. Defaults to 3.
        unit (Literal["km", "mi"], optional): of the result.

    Returns:
        float: the distance.

    Raises:
        ToolError: they are the same.

    Note:
        This is not read by a policy.
    """
NUMPY = """Distance between two cities.

    Along the great circle, whatever the roads are.

    Parameters
    ----------
    start : str
        where from; in any
        country.
    end : str
        where to: the second city. Defaults to 3.
    unit : {"km", "mi"}, optional
        of the result.

    Returns
    -------
    float
        the distance.

    Raises
    ------
    ToolError
        they are the same.

    Notes
    -----
    This is not read by a policy.
    """
REST = """Distance between two cities.

    Along the great circle, whatever the roads are.

    :param str start: where from; in any
        country.
    :param end: where to: the second city. Defaults to 3.
    :type end: str
    :param unit: of the result.
    :returns: the distance.
    :rtype: float
    :raises ToolError: they are the same.
    """
EPYDOC = """Distance between two cities.

    Along the great circle, whatever the roads are.

    @param start: where from; in any
        country.
    @type start: str
    @param end: where to: the second city. Defaults to 3.
    @param unit: of the result.
    @return: the distance.
    @rtype: float
    """


def documented(text: str) -> Tool:
    def distance(start: str, end: str, unit: str = "km") -> float:
        return 1.0

    distance.__doc__ = text
    return Tool(distance, inline=True)


@pytest.mark.parametrize("text", [NUMPY, REST, EPYDOC], ids=["numpy", "rest", "epydoc"])
def test_styles_give_the_same_document(text: str) -> None:
    expected = documented(GOOGLE).schema()
    described = expected["function"]["parameters"]["properties"]
    assert described["start"]["description"] == "where from; in any country."
    assert described["end"]["description"] == "where to: the second city. Defaults to 3."
    assert documented(text).schema() == expected


@pytest.mark.parametrize(
    ("text", "description", "parameters"),
    [
        ("Find it.", "Find it.", {}),
        ("Find: it\n\n  with more: of it.", "Find: it with more: of it.", {}),
        (":class:`Foo` is found.\n\n:param x: the x.", ":class:`Foo` is found.", {"x": "the x."}),
        ("Call at\n:12 or so.", "Call at :12 or so.", {}),
        ("Mail\n@home now.", "Mail @home now.", {}),
        ("Do.\n\nArgs:\n    x: one\n    and more", "Do.", {"x": "one and more"}),
        ("Do.\n\nArgs:\n    None.", "Do.", {}),
        ("Do.\nArgs:\n  x: the x\n  nobody: the other", "Do.", {"x": "the x"}),
        ("Do.\n\nKeyword Args:\n    x: the x\n\nSee Also:\n    y", "Do.", {"x": "the x"}),
        ("Do.\n\nParameters\n----------\nx, y : int\n    both", "Do.", {"x": "both", "y": "both"}),
        ("Do.\n\nArgs:\n    *x: the rest", "Do.", {"x": "the rest"}),
        ("Do.\n\n>>> do(1)\n1\n", "Do.", {}),
        ("Do.\n\n.. note:: not now\n", "Do.", {}),
        ("Heading\n=======\n\nBody.", "Heading Body.", {}),
        (":::", ":::", {}),
        ("", "", {}),
    ],
)
def test_odd_ones(text: str, description: str, parameters: dict[str, str]) -> None:
    assert read_docstring(text, ["x", "y"]) == (description, parameters)


_LINES = [
    "Args:",
    "Parameters",
    "---",
    ":param x: y",
    ":",
    "::",
    "@param x: y",
    "@",
    "  x: foo",
    "x",
]


@given(st.text() | st.lists(st.sampled_from(_LINES) | st.text(max_size=5)).map("\n".join))
def test_nothing_is_too_odd(text: str) -> None:
    description, parameters = read_docstring(text, ["x"])
    assert "\n" not in description
    assert set(parameters) <= {"x"}


def test_a_description_can_be_given() -> None:
    made = Tool(lambda: 1, name="one", description="Give\n  one.", inline=True)
    assert made.schema()["function"]["description"] == "Give one."


def test_without_docstrings_the_message_says_what_to_do() -> None:
    source = (
        "import toolgym\n"
        "def double(number: int) -> int:\n    'Twice a number.'\n    return 2 * number\n"
        "toolgym.tool(double)\n"
    )
    ended = subprocess.run([sys.executable, "-OO", "-c", source], capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert "run without -OO, or pass @tool(description=...)" in last
