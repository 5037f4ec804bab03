"""Formats: codecs between conversations with tools and the text that a policy reads and writes."""

from __future__ import annotations

from toolgym.formats.base import Action, Format, get_format
from toolgym.formats.strategies import Strategy

__all__ = ["Action", "Format", "Strategy", "get_format"]
