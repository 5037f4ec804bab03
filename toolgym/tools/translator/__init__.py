"""Translation: a phrase book, NLLB models and the engines that run them, languages by name."""

from __future__ import annotations
