"""Policies: what plays the episodes."""

from __future__ import annotations

from toolgym.policies.base import CallablePolicy, Policy, Reply, ReplyTokens, Request, make_policy

__all__ = ["CallablePolicy", "Policy", "Reply", "ReplyTokens", "Request", "make_policy"]
