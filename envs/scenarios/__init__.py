"""The scenario compiler: any question into a verified local tool environment, in five stages.

Source: arXiv 2508.08791, the section on environment construction; its authors published data and
training code, not the pipeline.
"""

from __future__ import annotations
