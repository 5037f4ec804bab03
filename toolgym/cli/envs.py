"""``toolgym envs``: what there is to play, and the names that its arguments take."""

from __future__ import annotations

from toolgym.cli import options
from toolgym.cli.shell import print_json, table

__all__ = ["list_names"]


def list_names(as_json: options.Json = False) -> None:
    """List environments and every other name that toolgym and its plug-ins have registered."""
    from toolgym.registry import KINDS

    if as_json:
        print_json({kind.kind: {name: kind.about(name) for name in kind} for kind in KINDS})
        return
    rows = [
        (kind.kind if first else "", name, kind.about(name))
        for kind in KINDS
        for first, name in zip([True, *[False] * len(kind)], kind, strict=False)
    ]
    print(table(rows))
