"""Scenarios: what they are, and how they are stored, shown, probed and played."""

from __future__ import annotations
