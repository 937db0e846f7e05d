"""The lab: a small chat model and its harmless world, built from a recipe, to try everything in.

Importing it is cheap, since PyTorch comes only with what :func:`build_base` builds, and registers the lab with evaluation:
the data, the judge and the models called ``lab``.
"""

from mogu.lab.grading import judge
from mogu.lab.recipe import build_base
from mogu.lab.registration import register
from mogu.lab.splits import choice_records, prompts, records

register()

__all__ = ["build_base", "choice_records", "judge", "prompts", "records"]
