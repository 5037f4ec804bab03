"""Kinds of tool that compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolgym.envs.toolscenario.codegen.params import Param, choice

__all__ = ["AREAS", "KINDS", "LENGTHS", "MASSES", "OPERATIONS", "TIMES", "WEEKDAYS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of tool that computes.

    Args:
        name: of the kind, and of the formula.
        what: description, with a full stop.
        core: what every call needs.
        functional: one more parameter for each level of functional generalisation.
        digits: decimals of the result; None: as it is.
        names: of the tool, the first one first.
        formula: how the body calls the formula.
    """

    name: str
    what: str
    core: tuple[Param, ...]
    functional: tuple[Param, ...]
    digits: int | None
    names: tuple[str, ...]
    formula: str


def _date(name: str, what: str) -> Param:
    return Param(name, "date", what)


LENGTHS = ("kilometres", "metres", "centimetres", "miles", "yards", "feet", "nautical_miles")
MASSES = ("tonnes", "kilograms", "grams", "pounds", "ounces")
AREAS = ("square_kilometres", "square_miles", "hectares", "acres")
TIMES = ("hours", "minutes", "days", "seconds")
OPERATIONS = ("sum", "mean", "median", "range", "maximum", "minimum")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

KINDS: Mapping[str, Kind] = {
    item.name: item
    for item in (
        Kind(
            "distance",
            "Computes the great-circle distance between two points on the Earth's surface, in "
            "kilometres with one decimal.",
            (Param("points", "points", "point in decimal degrees"),),
            (
                choice(
                    "unit",
                    "Unit of the distance",
                    ("kilometres", "miles", "nautical_miles"),
                    "kilometres",
                ),
                choice(
                    "measure",
                    "What to compute: the distance, or the compass bearing at the start (degrees)",
                    ("distance", "initial_bearing"),
                    "distance",
                ),
                Param(
                    "radius_km",
                    "number",
                    "Radius of the sphere in kilometres",
                    False,
                    6371.0088,
                    low=1,
                    high=100_000,
                ),
            ),
            1,
            (
                "calculate_distance",
                "measure_distance",
                "great_circle_distance",
                "distance_between_points",
            ),
            "great_circle(points, unit, measure, radius_km)",
        ),
        Kind(
            "date_difference",
            "Counts the days between two dates; the order in which they are given does not matter.",
            (_date("start_date", "First date"), _date("end_date", "Second date")),
            (
                choice("unit", "Unit of the result", ("days", "weeks", "years"), "days"),
                Param(
                    "inclusive",
                    "flag",
                    "Whether both the first and the last day count",
                    False,
                    False,
                ),
                choice("days_counted", "Which days count", ("all", "weekdays", "weekends"), "all"),
            ),
            2,
            ("days_between_dates", "date_gap", "count_days", "time_between"),
            "date_difference(start_date, end_date, unit, inclusive, days_counted)",
        ),
        Kind(
            "count_weekdays",
            "Counts how often one day of the week falls into a period; the period's first and last "
            "day belong to it.",
            (
                _date("start_date", "First day of the period"),
                _date("end_date", "Last day of the period"),
                choice("weekday", "Day of the week to count", WEEKDAYS),
            ),
            (
                Param(
                    "include_ends",
                    "flag",
                    "Whether the first and the last day belong to the period",
                    False,
                    True,
                ),
                Param(
                    "every",
                    "integer",
                    "Count only each n-th of these days",
                    False,
                    1,
                    low=1,
                    high=100,
                ),
                Param(
                    "subtract",
                    "integer",
                    "Number of days to leave out of the count, such as holidays",
                    False,
                    0,
                    low=0,
                    high=100_000,
                ),
            ),
            None,
            ("count_weekday", "weekday_occurrences", "count_day_of_week"),
            "count_weekdays(start_date, end_date, weekday, include_ends, every, subtract)",
        ),
        Kind(
            "add_days",
            "Gives the date that lies so many days after a date.",
            (
                _date("date", "Date to start from"),
                Param("days", "integer", "Number of days", low=0, high=400_000),
            ),
            (
                choice(
                    "direction",
                    "Whether to count forwards or backwards",
                    ("after", "before"),
                    "after",
                ),
                choice("only", "Which days to count", ("all", "working_days"), "all"),
                Param(
                    "weeks",
                    "integer",
                    "Whole weeks to count beside the days",
                    False,
                    0,
                    low=0,
                    high=50_000,
                ),
            ),
            None,
            ("add_days_to_date", "shift_date", "date_after"),
            "add_days(date, days + 7 * weeks, direction, only)",
        ),
        Kind(
            "convert_unit",
            "Converts a quantity to another unit, rounded to two decimals.",
            (
                Param("value", "number", "Quantity in the first unit"),
                choice("from_unit", "Unit of the quantity", ()),
                choice("to_unit", "Unit to convert to", ()),
            ),
            (
                Param(
                    "count",
                    "integer",
                    "How many such quantities to convert together",
                    False,
                    1,
                    low=1,
                    high=1_000_000,
                ),
                Param(
                    "power",
                    "integer",
                    "Power of ten by which the result is divided",
                    False,
                    0,
                    low=0,
                    high=9,
                ),
                Param(
                    "deduct",
                    "number",
                    "Amount to take off before the conversion, in the first unit",
                    False,
                    0,
                ),
            ),
            2,
            ("convert_units", "unit_converter", "change_unit"),
            "convert_unit((value - deduct) * count, from_unit, to_unit) / 10 ** power",
        ),
        Kind(
            "convert_currency",
            "Converts an amount of money at a given rate, rounded to two decimals.",
            (
                Param("amount", "number", "Amount in the old currency", low=0),
                Param(
                    "rate",
                    "number",
                    "How many units of the new currency one unit of the old one buys",
                ),
                Param("currency", "text", "Three-letter code of the new currency"),
            ),
            (
                Param(
                    "fee_percent",
                    "number",
                    "Fee taken off the result, in per cent",
                    False,
                    0,
                    low=0,
                    high=100,
                ),
                choice(
                    "direction",
                    "Whether to multiply by the rate or to divide by it",
                    ("forward", "backward"),
                    "forward",
                ),
                Param(
                    "fixed_fee",
                    "number",
                    "Fee taken off the amount before it is changed",
                    False,
                    0,
                    low=0,
                ),
            ),
            2,
            ("convert_money", "exchange_money", "currency_converter"),
            "convert_currency(amount - fixed_fee, rate, fee_percent, direction)",
        ),
        Kind(
            "aggregate",
            "Computes one number from several.",
            (Param("values", "numbers", "Numbers to work on"),),
            (
                choice("operation", "What to compute", OPERATIONS),
                Param("weights", "numbers", "Weight of each number, for sum and mean", False),
                Param(
                    "trim",
                    "integer",
                    "How many of the smallest and of the largest numbers to leave out",
                    False,
                    0,
                    low=0,
                    high=100,
                ),
            ),
            2,
            ("aggregate_numbers",),
            "aggregate(values, operation, weights, trim)",
        ),
        Kind(
            "share",
            "Divides one number by another, rounded to two decimals.",
            (
                Param("part", "number", "Number to divide"),
                Param("whole", "number", "Number to divide by"),
            ),
            (
                Param(
                    "scale",
                    "number",
                    "Factor for the result, such as one hundred for per cent",
                    False,
                    1,
                ),
                Param("swap", "flag", "Whether to divide the other way round", False, False),
                Param("offset", "number", "Number to add to the result", False, 0),
            ),
            2,
            ("divide_numbers", "compute_ratio", "ratio_of"),
            "(share(whole, part, scale) if swap else share(part, whole, scale)) + offset",
        ),
        Kind(
            "sort",
            "Puts numbers in order and gives them as a list.",
            (
                Param("values", "numbers", "Numbers to put in order"),
                choice(
                    "order",
                    "From the lowest up or from the highest down",
                    ("ascending", "descending"),
                ),
            ),
            (
                Param("unique", "flag", "Whether to drop repeated values", False, False),
                Param(
                    "limit", "integer", "How many values to give at most", False, low=1, high=1000
                ),
                Param(
                    "skip",
                    "integer",
                    "How many values to leave out at the beginning",
                    False,
                    0,
                    low=0,
                    high=1000,
                ),
            ),
            None,
            ("sort_numbers", "put_in_order", "order_values"),
            "sort_values(values, order, unique, limit, skip)",
        ),
    )
}
"""Kinds of tool that compute."""
