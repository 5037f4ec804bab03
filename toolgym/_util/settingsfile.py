"""Files of settings: YAML or JSON, with variables of the environment in their strings."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError

__all__ = ["read_settings"]


def read_settings(path: Path) -> Any:
    """The plain data of a file; ``${NAME}`` stands for the environment variable.

    Raises:
        MissingExtraError: a YAML file, and no YAML reader is installed.
        BadInputError: it is not valid, or names an environment variable that is not set.
    """
    where = f"settings file {str(path)!r}"
    try:
        return _filled_in(_read(path), where)
    except RecursionError as error:
        raise BadInputError(f"{where} is nested without an end: an alias in itself") from error


def _filled_in(value: Any, where: str) -> Any:
    """Plain data with the environment's variables in its strings."""
    if isinstance(value, dict):
        return {key: _filled_in(part, where) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, where) for part in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise BadInputError(
                f"{where} needs the environment variable {match[1]} (in {value!r}), which is not "
                "set; export it, or write the value into a copy of the file"
            )
        return found

    return re.sub(r"\$\{(\w+)\}", variable, value)


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    for key, times in Counter(str(key) for key, _ in pairs).items():
        if times > 1 and key != "<<":
            raise ValueError(f"the key {key!r} stands twice")
    return dict(pairs)


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_once)
        # transformers depends on PyYAML, so that the extra brings it.
        yaml = require_extra("yaml", "train")

        class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
            """Takes ``1e-5`` for a number, as YAML 1.2 and JSON do, and no key twice."""

            def flatten_mapping(self, node: Any) -> None:
                _once([(key.value, value) for key, value in node.value])
                super().flatten_mapping(node)

        Loader.add_implicit_resolver(
            "tag:yaml.org,2002:float",
            re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
            "-+.0123456789",
        )
    except ValueError as error:
        raise BadInputError(f"settings file {str(path)!r} cannot be read: {error}") from error
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(f"settings file {str(path)!r} is not valid YAML: {reason}") from error
