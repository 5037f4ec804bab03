"""Processes that run what must not run here: pools, fork servers and their children."""
