"""Knowledge by name: an invented world, the bundled facts, or a file of your own."""

from __future__ import annotations

import functools
from importlib import resources

from toolgym.envs.toolscenario.worlds.generated import generate
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge, read_triples

__all__ = ["open_knowledge"]

_BUNDLED = "samples/knowledge_sample.jsonl"


@functools.lru_cache(maxsize=8)
def open_knowledge(knowledge: str, seed: int, size: int, content: str = "") -> Knowledge:
    """Knowledge by name; kept, so that all scenarios of a process share it.

    Args:
        knowledge: ``bundled``, ``generated`` or the path of a file for `read_triples`.
        seed: of a generated world.
        size: entities of a generated world, roughly.
        content: hash of the file, so that one that was changed is read again.

    Raises:
        MissingFileError: there is no such file.
        BadInputError: a row of it is wrong.
    """
    if knowledge == "generated":
        return Knowledge(generate(seed, size), closed=True)
    if knowledge == "bundled":
        path = resources.files("toolgym.envs.toolscenario") / _BUNDLED
        with resources.as_file(path) as file:
            return Knowledge(read_triples(file))
    return Knowledge(read_triples(knowledge))
