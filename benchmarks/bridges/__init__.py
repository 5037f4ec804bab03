"""Conformance of the bridges: recorded episodes, replayed through each framework's own loop.

``make bridges`` runs all of them, ``make bridge-skyrl`` one; each has its own virtual environment.
"""
