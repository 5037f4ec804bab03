"""The calculator: what has one reading is read, what has two is refused, hints mean the same."""

from __future__ import annotations

import json
import re

import gymnasium
import pytest

import toolgym

CALL = '<tool_call>\n{"name": "Calculator", "arguments": {"expression": %s}}\n</tool_call>'
assert toolgym.__all__  # its environments are registered


@pytest.fixture(scope="module")
def env() -> gymnasium.Env[str, str]:
    return gymnasium.make("ToolQA-GSM8K-v0", format="hermes")


def told(env: gymnasium.Env[str, str], expression: str) -> str:
    """What the tool says."""
    env.reset(seed=0)
    observation, *_ = env.step(CALL % json.dumps(expression))
    found = re.search(r"<tool_response>\n(.*)\n</tool_response>", observation, re.S)
    assert found is not None
    return found[1]


REFUSED = [
    *("max(1,000, 2,000)", "mean(1,200, 1,300)", "min(12,500, 3)", "sum(1,000, 2,500)"),
    *("gcd(1,000, 250)", "max(10, 1,000)", "max($1,000, $2,000)", "max(1,000,2,000)"),
    *("2024-03-15 - 2024-01-01", "15/03/2024", "03-15-2024 + 1", "2024-03", "24-03-15", "15-03-24"),
    *("3*4=12 and 5*6=30", "3*4; 5*6", "3*4, 5*6", "3*4\n5*6", "3+4 or 5", "x=3; x*4"),
    *("100+10%", "$50 less 20%", "6/2(1+2)", "1/2pi", "12:30 + 1:15", "3–4", "5!!", "sin 30"),
    *("3 dozen 2 dozen", "two thousand five million", "one hundred two hundred", "five three"),
    *("average of two hundred, three hundred and fifty", "half of 10 plus 6", "12,34 + 1", "1 000"),
]
READ = {
    "sum([1,2,3])": "6", "mean((2,4))": "3", '"3*4"': "12", "```\n3*4\n```": "12", "`3*4`": "12",
    "math.sqrt(16)": "4", "np.mean([1,2])": "1.5", "Result: 3*4": "12", "print(3*4)": "12",
    "12 divided by 5": "2.4", "half of 30": "15", "5C2": "10", "5 choose 2": "10", "log2 8": "3",
    "1 + 2 + ... + 100": "5050", "2+4+...+100": "2550", "1*2*...*5": "120", "3 dozen": "36",
    "20% off of $50": "40", "15% of 80": "12", "10% of 50%": "0.05", "50% + 50%": "1",
    "product(2,3,4)": "24", "\\frac{1}{2} + \\frac14": "0.75", "\\sqrt[3]{27}": "3",
    "50\\% of 10": "5", "3{,}000+1": "3001", "\\binom{5}{2}": "10", "\\left(3+4\\right)": "7",
    "one thousand two hundred": "1200", "one hundred twenty three thousand": "123000",
    "2 million 300 thousand": "2300000", "two hundred thirty-five divided by five": "47",
    "3 squared": "9", "2 cubed plus 1": "9", "twenty-five times four": "100", "٣+٤": "7",
    "１２×２": "24", "1'000*2": "2000", "1½": "1.5", "2 1/2": "2.5", "√16": "4", "2³": "8",
}  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_two_readings_are_refused(expression: str, env: gymnasium.Env[str, str]) -> None:
    assert told(env, expression).startswith("Error")


@pytest.mark.parametrize(("expression", "value"), READ.items())
def test_one_reading_is_read(expression: str, value: str, env: gymnasium.Env[str, str]) -> None:
    assert told(env, expression) == value


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        *(("12 divvied by 5", "12 5"), ("3 dozen eggs", ": 3"), ("print", "'pi'")),
        *(("product(2;3)", "Traceback"), ("5 squares + 1", ": 5 + 1"), ("max(1,2,000,3)", "write")),
        *(("max(1,000,2,000)", "1000,2,000"), ("frac", "'exp'"), ("lines(3)", "'sin'")),
    ],
)
def test_no_hint_means_something_else(
    expression: str, wrong: str, env: gymnasium.Env[str, str]
) -> None:
    said = told(env, expression)
    assert said.startswith("Error")
    assert wrong not in said.partition("': ")[2]


@pytest.mark.parametrize("expression", ["exp(-1e300)", "e^(-10^9)", "2^-1e9"])
def test_what_underflows_is_no_exact_0(expression: str, env: gymnasium.Env[str, str]) -> None:
    assert told(env, expression) != "0"
