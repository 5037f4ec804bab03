"""The scenario compiler: any question into a verified local tool environment, in five stages.

An author writes, the stages here ask it and check what it gives; the built-in authors live in
`toolgym.envs.toolscenario.authors`, and come in by name.

Source: arXiv 2508.08791, the section on environment construction; its authors published data and
training code, not the pipeline.
"""

from __future__ import annotations
