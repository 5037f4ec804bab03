"""What has one reading is read, what has two is refused, and every rewrite offered means the same.

The tables go by kind of writing; the properties make more inputs of each kind.
"""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolgym.errors import ToolError
from toolgym.tools.calculator.evaluator import _is_unit, evaluate_expression
from toolgym.tools.calculator.tool import calculate
from toolgym.tools.calculator.wording import OPERATION_WORDS

READ = {
    "quotes, fences, labels and courtesy": [
        ('"3*4"', "12"), ("'3*4'", "12"), ("“3*4”", "12"), ("«3*4»", "12"), ("`3*4`", "12"),
        ("```\n3*4\n```", "12"), ("```python\n3*4\n```", "12"), ("Result: 3*4", "12"),
        ("Final Answer: 12/4", "3"), ("Step 2: 5+5", "10"), ("Total cost ($): 3*4", "12"),
        ("The answer is 3*4.", "12"), ("so 3*4 = 12", "12"), ("Solve 3*4", "12"),
        ("How much is 3*4?", "12"), ("3*4 please", "12"), ("print(3*4)", "12"),
        ("Calculator(3*4)", "12"), ("Average: (3+4)/2", "3.5"), ("3*4 = x", "12"),
        ("3*4 = __", "12"), ("3*4 = 12 apples", "12"), ("2/8 = 0.25...", "0.25"),
    ],
    "equalities": [
        ("3*4 = 12 = 2*6", "12"), ("5 = 3+2", "5"), ("2+3 = 6", "5"), ("15/30*100 = 50%", "50"),
        ("half of 30 = 20", "15"), ("3! = 6", "6"), ("number of apples = 3*4", "12"),
    ],
    "words for operations": [
        ("12 divided by 5", "2.4"), ("6 multiplied by 7", "42"), ("five plus three", "8"),
        ("twenty-five times four", "100"), ("3 squared", "9"), ("2 cubed plus 1", "9"),
        ("10 minus 3 squared", "1"), ("2 to the power of 3", "8"), ("5 to the third power", "125"),
        ("5 raised to 2", "25"), ("(2+3) squared", "25"), ("5 factorial", "120"),
        ("square root of 16", "4"), ("4th root of 16", "2"), ("cube root of 27", "3"),
        ("the sum of 3 and 4", "7"), ("twice the sum of 3 and 4", "14"),
        ("square root of the sum of 9 and 16", "5"), ("average of 10, 20, and 30", "20"),
        ("difference between 10 and 3", "7"), ("quotient of 84 and 12", "7"),
        ("greatest common divisor of 12 and 18", "6"), ("subtract 3 from 10", "7"),
        ("3 subtracted from 10", "7"), ("divide 12 by 4", "3"), ("100 less 10", "90"),
        ("remainder when 17 is divided by 5", "2"), ("17 modulo 5", "2"),
        ("negative 5 plus 3", "-2"), ("cube root 27", "3"), ("floor of 2.7", "2"),
        ("ln of 1", "0"), ("3/4 as a decimal", "0.75"), ("pi squared / pi^2", "1"),
        ("8 doubled", "16"),
        ("10/3 rounded to 2 decimal places", "3.33"),
        ("round 2.567 to the nearest tenth", "2.6"), ("round 3.7", "4"),
    ],
    "parts and shares": [
        ("half of 30", "15"), ("a third of 30", "10"), ("two thirds of 30", "20"),
        ("three quarters of 80", "60"), ("twice 5", "10"), ("10 + half of 30", "25"),
        ("10 / half of 4", "5"), ("half of (20+10)", "15"), ("20% off of $50", "40"),
        ("30 percent of 200", "60"), ("40% of 60% of 100", "24"), ("12 1/2% of 80", "10"),
        ("increase 100 by 10%", "110"), ("50 decreased by 20%", "40"), ("20% more than 50", "60"),
        ("subtract 10% from 50", "45"), ("1 + 5%", "1.05"), ("100% - 20%", "0.8"),
        ("50% - 3", "-2.5"), ("100*(1-20%)", "80"),
    ],
    "numbers in words": [
        ("3 dozen", "36"), ("half a dozen", "6"), ("10 / 2 dozen", "5/12 ≈ 0.416666666666667"),
        ("2 score", "40"), ("2 gross", "288"), ("three hundred", "300"), ("3 lakh", "300000"),
        ("half a million", "500000"), ("$5k + 3k", "8000"), ("three and a half", "3.5"),
        ("1 1/2 + 2 1/4", "3.75"), ("6 / 1 1/2", "4"), ("1 1/2 / 2", "0.75"), ("-1 1/2", "-1.5"),
    ],
    "forms of Python": [
        ("sum([1,2,3])", "6"), ("max([100,200])", "200"), ("sum((1, 2, 3))", "6"),
        ("math.sqrt(16)", "4"), ("np.mean([1, 2, 6])", "3"), ("math.pi/math.pi", "1"),
        ("statistics.median([3, 1, 2])", "2"), ("math.prod([2, 3, 4])", "24"),
        ("product(2,3,4)", "24"), ("sum([1,2,3])/len([1,2,3])", "2"), ("round(10/3, 2)", "3.33"),
        ("math.log(8, 2)", "3"), ("math.isqrt(17)", "4"), ("float(7)/2", "3.5"), ("7 % -3", "-2"),
        ("-5 % -3", "-2"), ("10 % +3", "1"), ("gcd(12,180)", "12"), ("mean(80,90,100)", "90"),
        ("pow(2,100)", str(2**100)),
    ],
    "counting, logarithms and series": [
        ("5C2", "10"), ("5 choose 2", "10"), ("{}^5C_2", "10"), ("5P2", "20"), ("P(5,2)", "20"),
        ("log2 8", "3"), ("ln e", "1"), ("ln 8 / ln 2", "3"), ("log base 2 of 8", "3"),
        ("log3(9)", "2"), ("sin 30 degrees", "0.5"), ("(sin 30°)", "0.5"), ("³√27", "3"),
        ("1 + 2 + ... + 100", "5050"), ("1+3+5+…+99", "2500"), ("1+2+4+...+64", "127"),
        ("1+1/2+1/4+...+1/64", "1.984375"), ("1*2*...*5", "120"), ("(1+2+...+10)/5", "11"),
    ],
    "LaTeX": [
        (r"\frac{1}2", "0.5"), (r"\frac1{2}", "0.5"), (r"\frac{\sqrt{16}}2", "2"),
        (r"2\frac12", "2.5"), (r"{1+2 \over 3}", "1"), (r"\log_2 8", "3"), (r"\log_{2} 8", "3"),
        (r"\ln 1", "0"), (r"\sin \frac{\pi}{2}", "1"), (r"\cos \pi", "-1"),
        (r"17 \pmod{5}", "2"), (r"\operatorname{lcm}(4,6)", "12"), (r"\sqrt[3]27", "3"),
        (r"\text{half of } 30", "15"), (r"1 + 2 + \cdots + 10", "55"), (r"\binom52", "10"),
        (r"3 \times 4 = \boxed{12}", "12"), (r"\frac{10!}{2!8!}", "45"), (r"\$5 + \$3", "8"),
    ],
    "what a double cannot hold": [
        ("exp(-1e300)", "≈ 0"), ("5*exp(-1000)", "≈ 0"), ("1 + exp(-1e300)", "1"),
        ("sqrt(exp(-2000))", "≈ 0"), ("0.5^10000.5", "≈ 0"), ("sin(1e-400)", "≈ 0"),
        ("0*exp(-1000)", "0"), ("erfc(1000)", "≈ 0"),
    ],
}  # fmt: skip

REFUSED = {
    "commas": [
        ("max(1,000, 2,000)", "write max(1000, 2000)"),
        ("mean(1,200, 1,300)", "write mean(1200, 1300)"), ("sum(1,200, 3)", "two readings"),
        ("round(1,234.567)", "two readings"),
        ("max(80, 90,100)", "two readings"), ("sum(120,450,300)", "two readings"),
        ("max(1,200)", "two readings"),
        ("sum([1,200, 1,300])", "two readings"), ("max((1,200), 3)", "two readings"),
        ("gcd(1,200, 300)", "two readings"), ("sum of 1,200 and 1,300", "two readings"),
        ("pow(2,010)", "two readings"), ("[1,200]", "list"), ("[1, 2]", "comma"),
        ("0,500*2", "comma"), ("3,14 * 2", "write 3.14"), ("1.234,56", "write 1234.56"),
        ("simplify(max(x, 1,200))", "two readings"), ("solve(x = 1,200, x)", "two readings"),
    ],
    "dates, times, ratios and ranges": [
        ("2024-03-15 - 2024-01-01", "date"), ("2024-12-25", "date"), ("03/15/2024", "date"),
        ("15/3/2024", "date"), ("2024/03/15 + 10", "date"), ("2024-03", "date"),
        ("03/15/24", "date"), ('"2024-03-15"', "date"), ("10:30 - 9:15", "':'"), ("3:4", "':'"),
        ("5–10", "range"), ("5 to 10", "'to'"), ("March 15, 2024", "unknown"),
    ],
    "more than one expression": [
        ("3*4=12 and 5*6=30", "one expression"), ("3*4=12; 5*6=30", "one expression"),
        ("3*4=12, 5*6=30", "comma"), ("3*4=12\n5*6=30", "a line ends"), ("3*4\n(5)", "a line ends"),
        ("- 3*4\n- 5*6", "a line ends"),
        ("3*4 = 12+5 = 17", "sides of '=' differ"), ("13 = 3*4", "sides of '=' differ"),
        ("3*4? 5*6", "operator is missing"), ("3!=7", "sides of '=' differ"),
        ("`3` `4`", "operator is missing"), ("3$4", "operator is missing"),
        ("3€50", "operator is missing"), (r"3\,4", "operator is missing"),
        ("1\u20092", "operator is missing"), ("1 < 2 = 3", "'='"),
    ],
    "shares": [
        ("100 + 10%", "two readings"), ("100 - 10%", "two readings"),
        ("100 less 10%", "two readings"),
        ("50%-3", "the remainder"), ("5%(100)", "the remainder"),
        ("20% 50", "the remainder"), ("10 / 20% of 50", "two readings"),
        ("5 of 10", "product or a quotient"), ("5 off 50", "percentage"),
        ("average of 85, 90 and 95%", "'and'"), ("15% tip on 40", "'tip' is unknown"),
        ("percent change from 80 to 100", "(100 - 80)/80*100"),
    ],
    "products without a sign": [
        ("6/2(1+2)", "two readings"), ("1/2 pi", "two readings"), ("√2π", "end is not clear"),
        ("√16!", "end is not clear"), ("log2 8 * 2", "end is not clear"), ("sin 30", "brackets"),
        ("log 100", "natural"), ("1/2 million", "two readings"), ("2^3 million", "two readings"),
        (r"2\frac{3}{2}", "product or a sum"), ("2 10/3", "operator is missing"),
        ("0x10", "hexadecimal"), ("1/2 1/2", "operator is missing"),
    ],
    "words": [
        ("half of 30 + 10", "'half' has no clear reading"), ("-3 squared", "'squared'"),
        ("square root of 16 plus 9", "'square'"), ("17 div 5", "'div' is not understood"),
        ("2^3 squared", "'squared'"), ("sum of 3 and 4 times 5", "'and'"), ("12 half of 5", "half"),
        ("1+2 over 3", "'over'"), ("is 5 less than 10?", "'is'"), ("12 max 5", "brackets"),
        ("Square root: 16", "':'"), ("Average: 3+4+5", "':'"), ("five (5)", "five"),
        ("3 hours in minutes", "'in'"), ("3 cups * 2", "'cups' is not understood"),
        ("1 + 2 + ... + 64", "'...'"), ("1 + ... + 100", "'...'"), ("3 pairs", "'pairs'"),
        ('f"{3*4}"', "not understood"), ("lambda x: 5", "':'"), ("3K", "'K' is unknown"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "result"), [pair for kind in READ.values() for pair in kind])
def test_one_reading_is_read(text: str, result: str) -> None:
    assert calculate(text) == result


@pytest.mark.parametrize(("text", "why"), [pair for kind in REFUSED.values() for pair in kind])
def test_two_readings_are_refused(text: str, why: str) -> None:
    with pytest.raises(ToolError) as refused:
        calculate(text)
    assert why in str(refused.value).partition("': ")[2]
    assert "\n" not in str(refused.value).replace(repr(text), "")


@pytest.mark.parametrize("name", ["print", "import", "range", "apples", "len2", "exponent"])
def test_far_names_are_not_offered(name: str) -> None:
    with pytest.raises(ToolError) as refused:
        calculate(name)
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("text", ["exp(-1000) > 0", "floor(exp(-1000))", "max(exp(-1000), 0)"])
def test_what_no_double_holds_is_not_compared(text: str) -> None:
    with pytest.raises(ToolError, match="nearer to 0"):
        calculate(text)


# ---- properties

numbers = st.integers(0, 9_999)
thousands = st.integers(1_000, 9_999_999)
words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9)


def refusal(text: str) -> str:
    """The reason for which a text is refused."""
    with pytest.raises(ToolError) as refused:
        evaluate_expression(text)
    return str(refused.value)


# Each sign as it is written: plain, typographic, LaTeX, in words.
COUNTS_AND_ASIDES = ("please", "the", "exactly", "tau", "equal", "choose", "ncr", "npr")
_WAYS = [
    {"+": " + ", "-": " - ", "*": " * ", "/": " / "},
    {"+": "+", "-": "-", "*": "*", "/": "/"},
    {"+": " ＋ ", "-": " − ", "*": " × ", "/": " ÷ "},
    {"+": " + ", "-": " - ", "*": r" \cdot ", "/": r" \div "},
    {"+": " plus ", "-": " minus ", "*": " times ", "/": " divided by "},
    {"+": " + ", "-": " - ", "*": " multiplied by ", "/": " / "},
]
_AROUND = [
    *("{}", "{} =", "= {}", "Answer: {}", "x = {}", "What is {}?", '"{}"', "`{}`", "({})", "${}$"),
    *("```\n{}\n```", r"\boxed{{{}}}", "The result is {}.", r"\({}\)", "print({})"),
]
trees = st.recursive(
    numbers.map(str),
    lambda below: st.tuples(below, st.sampled_from("+-*/"), below),
    max_leaves=8,
)
Tree = str | tuple["Tree", str, "Tree"]


def value_of(tree: Tree) -> Fraction:
    if isinstance(tree, str):
        return Fraction(tree)
    left, right = value_of(tree[0]), value_of(tree[2])
    signs_ = {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}
    return signs_[tree[1]](right)


def written(tree: Tree, way: dict[str, str], grouped: bool, least: int = 0) -> str:
    if isinstance(tree, str):
        return f"{int(tree):,}" if grouped else tree
    binding = 1 if tree[1] in "+-" else 2
    left = written(tree[0], way, grouped, binding)
    text = f"{left}{way[tree[1]]}{written(tree[2], way, grouped, binding + 1)}"
    return f"({text})" if binding < least else text


@given(trees, st.sampled_from(_WAYS), st.sampled_from(_AROUND), st.booleans())
def test_any_notation_equals_fractions(
    tree: Tree, way: dict[str, str], around: str, grouped: bool
) -> None:
    try:
        expected = value_of(tree)
    except ZeroDivisionError:
        return
    text = around.format(written(tree, way, grouped))
    assume(not re.search(r"[0-9]-[0-9]+-[0-9]|[0-9]/[0-9]+/[0-9]", text))  # a date
    assert evaluate_expression(text) == expected


@given(
    st.sampled_from(["max", "min", "sum", "mean", "median", "round", "log", "product", "gcd"]),
    st.lists(thousands, min_size=1, max_size=4),
    st.sampled_from([", ", ","]),
)
def test_thousands_in_a_call_are_never_guessed(name: str, values: list[int], comma: str) -> None:
    text = f"{name}({comma.join(f'{value:,}' for value in values)})"
    try:
        found = evaluate_expression(text)
    except ToolError as error:
        if comma == ", " and "for thousands write" in str(error):
            offered = str(error).partition("for thousands write ")[2].partition(";")[0]
            assert offered == f"{name}({', '.join(map(str, values))})"
        return
    # Only the greatest common divisor needs two arguments, so that one comma parts them.
    assert name == "gcd"
    assert len(values) == 1
    assert found > 0


@given(st.integers(1800, 2099), st.integers(1, 12), st.integers(1, 28), st.sampled_from("-/"))
def test_a_date_has_no_value(year: int, month: int, day: int, sign: str) -> None:
    dates = [f"{year}{sign}{month:02}{sign}{day:02}", f"{day:02}{sign}{month:02}{sign}{year}"]
    for date in [*dates, f"{month}{sign}{day}{sign}{year}", f"{year}{sign}{month}{sign}{day}"]:
        for text in (date, f"{date} - 10", f"days = {date}", f'"{date}"'):
            assert "date" in refusal(text)
    spaced = f"{year} {sign} {month} {sign} {day}"
    expected = year - month - day if sign == "-" else Fraction(year, month * day)
    assert evaluate_expression(spaced) == expected


@given(numbers, st.integers(1, 99), st.sampled_from("+-"), st.sampled_from(["", " "]))
def test_a_share_added_to_a_number_is_never_guessed(
    number: int, share: int, sign: str, space: str
) -> None:
    assume(number != 1)
    assert "two readings" in refusal(f"{number}{space}{sign}{space}{share}%")
    expected = Fraction(number) * (100 + int(f"{sign}{share}")) / 100
    assert evaluate_expression(f"{number}*(1{sign}{share}%)") == expected


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_a_product_without_a_sign_after_a_quotient_is_never_guessed(a: int, b: int, c: int) -> None:
    for text in (f"{a}/{b}({c})", f"{a} ÷ {b}({c}+1)", f"{a}/{b} pi", f"{a}/{b}sqrt({c})"):
        assert "two readings" in refusal(text)
    assert evaluate_expression(f"({a}/{b})({c})") == Fraction(a * c, b)


@given(st.lists(trees, min_size=2, max_size=3), st.sampled_from([" and ", "; ", "\n", " or "]))
def test_two_expressions_have_no_value(parts: list[Tree], joint: str) -> None:
    texts = [written(part, _WAYS[1], grouped=False) for part in parts]
    assume(not any(text.startswith(("-", "(")) for text in texts))
    assert refusal(joint.join(texts))


@given(trees, trees)
def test_sides_that_differ_are_refused(left: Tree, right: Tree) -> None:
    try:
        values = value_of(left), value_of(right)
    except ZeroDivisionError:
        return
    texts = [written(side, _WAYS[0], grouped=False) for side in (left, right)]
    assume(not isinstance(right, str))
    if values[0] == values[1]:
        assert evaluate_expression(" = ".join(texts)) == values[0]
    else:
        assert "sides of '=' differ" in refusal(" = ".join(texts))


@given(numbers, words, numbers, st.sampled_from(["{0} {1} {2}", "{0} {1}", "{0} {1} + {2} {1}"]))
def test_an_unknown_word_is_never_dropped(a: int, word: str, b: int, form: str) -> None:
    """Neither in reading nor in what is offered."""
    assume(word not in OPERATION_WORDS and word not in COUNTS_AND_ASIDES and not _is_unit(word))
    said = refusal(form.format(a, word, b))
    assert re.search(r"without '|write [(0-9]", said) is None


@given(
    st.lists(numbers, min_size=1, max_size=4),
    st.sampled_from(["km", "apples", "dollars", "kg", "hours", "miles", "cents"]),
    st.sampled_from(["+", "-", "*"]),
)
def test_an_expression_offered_without_units_has_the_same_value(
    values: list[int], unit: str, sign: str
) -> None:
    said = refusal(f" {sign} ".join(f"{value} {unit}" for value in values))
    shown = said.partition(f"without {unit!r}: ")[2]
    assert evaluate_expression(shown) == evaluate_expression(f" {sign} ".join(map(str, values)))


@given(st.integers(0, 999), st.integers(0, 99), st.integers(1, 9))
def test_an_offered_decimal_has_the_same_value(whole: int, decimals: int, last: int) -> None:
    digits = f"{decimals:02}{last}0"
    said = refusal(f"{whole},{digits}")
    assert evaluate_expression(said.rpartition("write ")[2]) == Fraction(f"{whole}.{digits}")


@given(st.integers(1, 50), st.integers(1, 9), st.integers(2, 40))
def test_a_series_is_the_sum_of_its_terms(first: int, step: int, count: int) -> None:
    terms = [first + step * n for n in range(count + 2)]
    geometric = [first * Fraction(terms[1], first) ** n for n in range(40)]
    text = f"{terms[0]} + {terms[1]} + ... + {terms[-1]}"
    if terms[-1] in geometric[2:]:
        assert "'...'" in refusal(text)
    else:
        assert evaluate_expression(text) == sum(terms)
    assert evaluate_expression(f"{terms[0]}+{terms[1]}+{terms[2]}+…+{terms[-1]}") == sum(terms)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(2, 10))
def test_a_mixed_number_is_one_number(whole: int, top: int, bottom: int) -> None:
    text = f"{whole} {top}/{bottom}"
    if top < bottom:
        assert evaluate_expression(text) == whole + Fraction(top, bottom)
        assert evaluate_expression(f"3 * {text}") == 3 * (whole + Fraction(top, bottom))
    else:
        refusal(text)


_PIECES = st.sampled_from(
    [
        *("half of ", "twice ", "the sum of ", " and ", " squared", " million", "1,200", "5C2"),
        *("1/2 ", "...", " divided by ", "2024-03-15", '"', "`", ": ", "=", "%", " of ", "(", ")"),
        *(
            "round ",
            "sin ",
            "log2 ",
            "dozen",
            " to the power of ",
            "max(",
            "[",
            "]",
            ",",
            "\n",
            "3",
        ),
    ]
)


@given(st.lists(_PIECES, max_size=25).map("".join))
def test_any_words_give_a_short_text_or_a_refusal(text: str) -> None:
    try:
        result = calculate(text)
    except ToolError as error:
        result = str(error)
    assert 0 < len(result) < 700
