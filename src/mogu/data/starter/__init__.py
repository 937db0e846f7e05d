"""The starter set: instructions to harden a model with before you have data of your own, with topics held out for dev and test.

Its three files were written for this project. Importing this package imports no PyTorch.
"""

from mogu.data.starter.instructions import (
    HELD_OUT,
    SPLITS,
    StarterInstruction,
    split_of,
    starter_files,
    starter_instructions,
    write_starter,
)
from mogu.data.starter.pairs import (
    AUGMENT,
    DEV_WRAPPERS,
    GATE_DEV_WRAPPERS,
    GATE_TRAIN_WRAPPERS,
    LIMIT,
    STARTER,
    TRAIN_WRAPPERS,
    candidates,
    dev_pairs,
    opening_answers,
    train_pairs,
)

__all__ = [
    "AUGMENT",
    "DEV_WRAPPERS",
    "GATE_DEV_WRAPPERS",
    "GATE_TRAIN_WRAPPERS",
    "HELD_OUT",
    "LIMIT",
    "SPLITS",
    "STARTER",
    "TRAIN_WRAPPERS",
    "StarterInstruction",
    "candidates",
    "dev_pairs",
    "opening_answers",
    "split_of",
    "starter_files",
    "starter_instructions",
    "train_pairs",
    "write_starter",
]
