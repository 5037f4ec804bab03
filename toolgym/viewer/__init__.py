"""Recorded episodes, scenarios and training rows as one page that a browser opens from disk."""

from toolgym.viewer.page import view_html

__all__ = ["view_html"]
