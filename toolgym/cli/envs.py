"""``toolgym envs``: what there is to play, and the names that its arguments take."""

from __future__ import annotations

from toolgym.cli import options
from toolgym.cli.shell import print_json, table

__all__ = ["list_names"]


def list_names(as_json: options.Json = False) -> None:
    """List environments, and the names that their arguments take."""
    import gymnasium as gym

    from toolgym import registry
    from toolgym.rollouts.engine import environment_ids

    ids = environment_ids()
    kinds = ("TOOLS", "FORMATS", "PROMPTS", "REWARDS", "POLICIES", "CORPORA", "AUTHORS")
    names = {getattr(registry, kind).kind: list(getattr(registry, kind)) for kind in kinds}
    if as_json:
        entries = {env_id: str(gym.registry[env_id].entry_point) for env_id in ids}
        print_json({"environment": entries} | names)
        return
    rows = [
        (kind, name) for kind, found in ({"environment": ids} | names).items() for name in found
    ]
    seen: set[str] = set()
    shown = []
    for kind, name in rows:
        shown.append(("" if kind in seen else kind, name))
        seen.add(kind)
    print(table(shown))
