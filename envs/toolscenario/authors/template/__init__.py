"""The author without a model: questions as chains of relations through a world of facts."""

from __future__ import annotations
