"""Defenses behind one interface: MoGU, no defense, and the baselines that it is compared with.

A defense turns (model, tokenizer, conversations, settings) into replies, with its own cost counted.
"""

from mogu.defenses.cost import Cost
from mogu.defenses.registry import (
    REFUSAL,
    DefendedReply,
    Defense,
    DefenseInfo,
    defense,
    defense_info,
    defense_names,
    defense_options,
    make_defense,
)
from mogu.defenses.subject import Subject

# Importing a defense registers it, and the order in which they are registered is that of every report.
# isort: off
from mogu.defenses import undefended
from mogu.defenses import fine_tuned
from mogu.defenses import detect_inp
from mogu.defenses import self_reminder
from mogu.defenses import self_examine
from mogu.defenses import retokenization
from mogu.defenses import icd
from mogu.defenses import safe_decoding
from mogu.defenses import routed
# isort: on

__all__ = [
    "REFUSAL",
    "Cost",
    "DefendedReply",
    "Defense",
    "DefenseInfo",
    "Subject",
    "defense",
    "defense_info",
    "defense_names",
    "defense_options",
    "detect_inp",
    "fine_tuned",
    "icd",
    "make_defense",
    "retokenization",
    "routed",
    "safe_decoding",
    "self_examine",
    "self_reminder",
    "undefended",
]
