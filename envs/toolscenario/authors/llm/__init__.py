"""The author behind an endpoint: a model is asked stage by stage, and its replies are checked."""

from __future__ import annotations
