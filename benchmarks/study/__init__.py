"""The study: the miniature trained in every way, measured on the same questions, as a page.

``python -m benchmarks.study`` runs it. It needs the `train` extra.
"""
