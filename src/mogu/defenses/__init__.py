"""Defenses behind one interface: no defense, published baselines, MoGU, and defenses of the user's own.

A defense turns a target model, a batch of conversations and reply settings into replies, and the cost of each reply is counted.
"""

from mogu.defenses import (  # importing a defense registers it
    detect_inp,
    fine_tuned,
    icd,
    minilm,
    mogu_score,
    retokenization,
    routed,
    safe_decoding,
    self_examine,
    self_reminder,
    undefended,
)
from mogu.defenses.cost import Cost
from mogu.defenses.plugins import load_plugin
from mogu.defenses.registry import (
    REFUSAL,
    Answer,
    DefendedReply,
    Defense,
    DefenseInfo,
    bad_option,
    custom_code_fingerprint,
    defense,
    defense_info,
    defense_names,
    defense_options,
    make_defense,
    refused,
)
from mogu.defenses.target_model import TargetModel

__all__ = [
    "REFUSAL",
    "Answer",
    "Cost",
    "DefendedReply",
    "Defense",
    "DefenseInfo",
    "TargetModel",
    "bad_option",
    "custom_code_fingerprint",
    "defense",
    "defense_info",
    "defense_names",
    "defense_options",
    "detect_inp",
    "fine_tuned",
    "icd",
    "load_plugin",
    "make_defense",
    "minilm",
    "mogu_score",
    "refused",
    "retokenization",
    "routed",
    "safe_decoding",
    "self_examine",
    "self_reminder",
    "undefended",
]
