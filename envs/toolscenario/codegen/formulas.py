"""What tools check, look up and compute: copied into their sources, run here for the answers."""

from __future__ import annotations

import datetime
import itertools
import math
import unicodedata
from typing import Any

__all__ = [
    *("PARTS", "add_days", "aggregate", "check_value", "convert_currency", "convert_unit"),
    *("count_weekdays", "date_difference", "find_name", "fold_name", "great_circle", "names_of"),
    *("present", "read_date", "round_number", "share", "sort_values"),
]

# In the order in which a source holds them: those that others call stand first.
PARTS = (
    *("check_value", "find_name", "fold_name", "names_of", "present", "round_number"),
    *("add_days", "aggregate", "convert_currency", "convert_unit", "count_weekdays"),
    *("date_difference", "great_circle", "read_date", "share", "sort_values"),
)


def check_value(value: Any, schema: dict[str, Any], where: str) -> None:
    """Compare a value with its JSON Schema; a ValueError says which parameter is wrong, and how."""
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind, shown = schema["type"], str(value)[:60]
    fits = isinstance(value, kinds.get(kind, int))
    if not fits or (isinstance(value, bool) and kind != "boolean"):
        raise ValueError(f"{where} must be of type {kind}, not {shown!r}")
    if value not in schema.get("enum", [value]):
        raise ValueError(f"{where} must be one of {', '.join(schema['enum'])}, not {shown!r}")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", -1e15), schema.get("maximum", 1e15)
        if not low <= value <= high:
            raise ValueError(f"{where} must lie between {low} and {high}, it is {shown}")
    elif kind == "array":
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            bounds = f"{schema['minItems']} to {schema['maxItems']}"
            raise ValueError(f"{where} must have {bounds} items, not {len(value)}")
        for place, item in enumerate(value):
            check_value(item, schema["items"], f"{where}[{place}]")
    elif kind == "object":
        known = schema["properties"]
        for name in schema["required"]:
            if name not in value:
                raise ValueError(f"{where} lacks {name!r}: {known[name]['description']}")
        for name in value:
            if name not in known:
                raise ValueError(f"{where} has no field {name!r}; fields: {', '.join(known)}")
            check_value(value[name], known[name], f"{where}.{name}")


def fold_name(name: str) -> str:
    """A name without case, accents, quotes and surplus spaces."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(sign for sign in plain if not unicodedata.combining(sign))
    words = kept.replace("’", "'").strip("\"'“”‘ ").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


def find_name(
    value: str, names: list[str], listed: list[str], where: str, what: str, exact: bool
) -> str:
    """The name in the register that is meant; a ValueError shows near ones of those listed."""
    for name in names:
        if name == value or (not exact and fold_name(name) == fold_name(value)):
            return name
    start = fold_name(value)[:3]
    near = " or ".join(repr(name) for name in listed if fold_name(name).startswith(start))
    hint = f" (did you mean {near}?)" if start and near else ""
    raise ValueError(
        f"{where}: no {what} {value[:60]!r} in the register{hint}; give the full name as it stands "
        "in the question or in an earlier result"
    )


def names_of(items: list[dict[str, Any]], kind: str, where: str) -> list[str]:
    """The names of entities that have to be of one kind."""
    for item in items:
        if item.get("kind", kind) != kind:
            raise ValueError(f"{where}: kind must be {kind!r} for this tool, not {item['kind']!r}")
    return [item["name"] for item in items]


def round_number(value: Any, digits: int | None, way: str = "nearest") -> Any:
    """Numbers rounded half away from zero, whole ones without a decimal point; else unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if digits is not None:
        scaled, sign = abs(value) * 10**digits, 1 if value >= 0 else -1
        whole = int(scaled + (0.5 + 1e-9 if way == "nearest" else 1e-9))
        if way != "nearest" and (way == "up") == (sign > 0) and scaled - whole > 1e-9:
            whole += 1
        value = sign * whole / 10**digits
    return int(value) if value == int(value) else value


def present(value: Any, style: str, language: str) -> Any:
    """A value in another form: dates written out, texts in other letters."""
    if not isinstance(value, str):
        return value
    if style in ("upper", "lower"):
        return value.upper() if style == "upper" else value.lower()
    months = {
        "en": "January February March April May June July August September October November "
        "December",
        "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre "
        "décembre",
    }
    if style == "long" and len(value) == 10 and value[4] == value[7] == "-":
        month = months[language].split()[int(value[5:7]) - 1]
        return f"{int(value[8:])} {month} {value[:4]}"
    return value


def read_date(
    text: str, where: str, calendar: str = "gregorian", shift_days: int = 0
) -> datetime.date:
    """A date written as YYYY-MM-DD, of the Gregorian or the Julian calendar."""
    try:
        date = datetime.date.fromisoformat(text.strip())
        if calendar == "julian":
            year = date.year - (date.month < 3)
            shift_days += year // 100 - year // 400 - 2
        return date + datetime.timedelta(days=shift_days)
    except (ValueError, OverflowError):
        raise ValueError(f"{where} must be a date written YYYY-MM-DD, not {text[:40]!r}") from None


def great_circle(
    points: list[tuple[float, float]],
    unit: str = "kilometres",
    measure: str = "distance",
    radius_km: float = 6371.0088,
) -> float:
    """Haversine distance along points (latitude, longitude in degrees), or the first bearing."""
    sizes = {"kilometres": 1.0, "miles": 1 / 1.609344, "nautical_miles": 1 / 1.852}
    total = 0.0
    for (lat_a, lon_a), (lat_b, lon_b) in itertools.pairwise(points):
        phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
        turn = math.radians(lon_b - lon_a)
        if measure == "initial_bearing":
            east = math.sin(turn) * math.cos(phi_b)
            north = math.cos(phi_a) * math.sin(phi_b)
            north -= math.sin(phi_a) * math.cos(phi_b) * math.cos(turn)
            return (math.degrees(math.atan2(east, north)) + 360) % 360
        half = math.sin((phi_b - phi_a) / 2) ** 2
        half += math.cos(phi_a) * math.cos(phi_b) * math.sin(turn / 2) ** 2
        total += 2 * radius_km * math.asin(min(1.0, math.sqrt(half)))
    return total * sizes[unit]


def date_difference(
    start: datetime.date,
    end: datetime.date,
    unit: str = "days",
    inclusive: bool = False,
    days_counted: str = "all",
) -> float:
    """The time between two dates, in whichever order they are given."""
    low, high = min(start, end), max(start, end)
    days = (high - low).days + (1 if inclusive else 0)
    if days_counted != "all":
        weekend = 0
        for offset in range(days % 7):
            weekend += (low + datetime.timedelta(days=offset)).weekday() >= 5
        weekend += days // 7 * 2
        days = weekend if days_counted == "weekends" else days - weekend
    return days / {"days": 1, "weeks": 7, "years": 365.2425}[unit]


def count_weekdays(
    start: datetime.date,
    end: datetime.date,
    weekday: str,
    include_ends: bool = True,
    every: int = 1,
    subtract: int = 0,
) -> int:
    """How often a day of the week falls into a period; its first and last day count."""
    low, high = min(start, end), max(start, end)
    if not include_ends:
        low, high = low + datetime.timedelta(days=1), high - datetime.timedelta(days=1)
    names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    wait = (names.index(weekday) - low.weekday()) % 7
    return max(0, max(0, ((high - low).days - wait) // 7 + 1) // every - subtract)


def add_days(date: datetime.date, days: int, direction: str = "after", only: str = "all") -> str:
    """The date so many days (or working days) after or before another one."""
    step = datetime.timedelta(days=1 if direction == "after" else -1)
    if only == "all":
        return (date + step * days).isoformat()
    if days > 20000:
        raise ValueError(f"days must be at most 20000 when working days are counted, not {days}")
    while days > 0:
        date += step
        days -= date.weekday() < 5
    return date.isoformat()


def convert_unit(value: float, from_unit: str, to_unit: str) -> float:
    """A quantity in another unit of the same dimension."""
    units = {
        "length": {
            "kilometres": 1000.0,
            "metres": 1.0,
            "centimetres": 0.01,
            "miles": 1609.344,
            "yards": 0.9144,
            "feet": 0.3048,
            "nautical_miles": 1852.0,
        },
        "mass": {
            "tonnes": 1e6,
            "kilograms": 1000.0,
            "grams": 1.0,
            "pounds": 453.59237,
            "ounces": 28.349523125,
        },
        "area": {
            "square_kilometres": 1.0,
            "square_miles": 2.589988110336,
            "hectares": 0.01,
            "acres": 0.0040468564224,
        },
        "time": {"hours": 60.0, "minutes": 1.0, "days": 1440.0, "seconds": 1 / 60},
    }
    for sizes in units.values():
        if from_unit in sizes and to_unit in sizes:
            return value * sizes[from_unit] / sizes[to_unit]
    raise ValueError(f"{from_unit} cannot be converted to {to_unit}: they measure different things")


def convert_currency(
    amount: float, rate: float, fee_percent: float = 0.0, direction: str = "forward"
) -> float:
    """An amount at a given rate: how many units of the new currency one unit of the old buys."""
    if rate <= 0:
        raise ValueError(f"rate must be more than zero, not {rate}")
    changed = amount * rate if direction == "forward" else amount / rate
    return changed * (1 - fee_percent / 100)


def aggregate(
    values: list[float], operation: str, weights: list[float] | None = None, skip: int = 0
) -> float:
    """One number from several: total, mean, median, spread and the like."""
    if weights is not None and len(weights) != len(values):
        raise ValueError(f"weights must have {len(values)} numbers, one for each value")
    if skip:
        kept = sorted(values)[skip:-skip]
        if not kept or weights is not None:
            raise ValueError("trim leaves nothing, or is given together with weights")
        values = kept
    ordered, shares = sorted(values), weights or [1.0] * len(values)
    total = sum(value * part for value, part in zip(values, shares, strict=True))
    middle = len(ordered) // 2
    if operation == "mean":
        if sum(shares) == 0:
            raise ValueError("weights must not add up to zero")
        return total / sum(shares)
    if operation == "median":
        odd = len(ordered) % 2
        return ordered[middle] if odd else (ordered[middle - 1] + ordered[middle]) / 2
    if operation == "range":
        return ordered[-1] - ordered[0]
    if operation == "maximum":
        return ordered[-1]
    return ordered[0] if operation == "minimum" else total


def share(part: float, whole: float, scale: float = 1.0) -> float:
    """How many times one number holds another, times a scale (100 for per cent)."""
    if whole == 0:
        raise ValueError("the second number must not be zero")
    return part / whole * scale


def sort_values(
    values: list[Any],
    order: str = "ascending",
    unique: bool = False,
    limit: int | None = None,
    skip: int = 0,
) -> list[Any]:
    """Numbers or texts in order."""
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError("values must be all numbers or all texts")
    chosen = list(dict.fromkeys(values)) if unique else list(values)
    return sorted(chosen, reverse=order == "descending")[skip:][: limit or len(chosen)]
