"""What differs between two values of plain JSON, and the way back from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolgym._util.jsonl import copy_json

__all__ = ["Change", "difference", "undone"]

Change = dict[str, Any]
"""``{"path": keys and places from the outside in, "before": value, "after": value}``.

Without ``before`` it was added, without ``after`` it was taken away.
"""


def difference(before: Any, after: Any) -> list[Change]:
    """What of a value changed.

    Lists are compared place by place; what the longer one has more was added or taken away at the
    end.

    Args:
        before: plain JSON.
        after: plain JSON.

    Returns:
        Changes in the order of the keys of ``before``, then of those that are new.
    """
    found: list[Change] = []
    _compare(before, after, [], found)
    return found


def _compare(before: Any, after: Any, path: list[Any], found: list[Change]) -> None:
    if type(before) is type(after) and before == after and not isinstance(before, dict | list):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                _compare(value, after[key], [*path, key], found)
            else:
                found.append({"path": [*path, key], "before": value})
        added = [key for key in after if key not in before]
        found += [{"path": [*path, key], "after": after[key]} for key in added]
    elif isinstance(before, list) and isinstance(after, list):
        for place, (old, new) in enumerate(zip(before, after, strict=False)):
            _compare(old, new, [*path, place], found)
        common = min(len(before), len(after))
        for place in range(common, len(after)):
            found.append({"path": [*path, place], "after": after[place]})
        for place in range(len(before) - 1, common - 1, -1):  # from the end, as they are undone
            found.append({"path": [*path, place], "before": before[place]})
    else:
        found.append({"path": path, "before": before, "after": after})


def undone(after: Any, changes: Sequence[Change]) -> Any:
    """The value before some changes.

    Args:
        after: the value after them; it is changed in place where it is a mapping or a list.
        changes: of `difference`.

    Returns:
        Equal to what ``before`` was; keys of mappings may stand in another order.
    """
    for change in reversed(changes):
        if not change["path"]:
            after = copy_json(change["before"])
            continue
        *way, last = change["path"]
        place = after
        for key in way:
            place = place[key]
        if "after" not in change and isinstance(place, list):
            place.insert(last, copy_json(change["before"]))
        elif "before" in change:
            place[last] = copy_json(change["before"])
        else:
            del place[last]
    return after
