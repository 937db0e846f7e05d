"""Attacks on hardened models: what it costs to make a model give in to malicious requests.

Importing this package registers every attack, in the order of reports.
"""

# isort: off
import mogu.attacks.direct
import mogu.attacks.prefill
import mogu.attacks.delayed
import mogu.attacks.formats
import mogu.attacks.encodings
import mogu.attacks.many_shot
import mogu.attacks.ladders
import mogu.attacks.sampling
import mogu.attacks.random_search
import mogu.attacks.gcg
import mogu.attacks.embedding
import mogu.attacks.weights  # noqa: F401

# isort: on
from mogu.attacks.attempt import Attempt, Attempts, Context, ask, attack, attack_info, attack_names
from mogu.attacks.campaign import attack_models
from mogu.attacks.config import AttackSettings
from mogu.attacks.plugins import load_plugin

__all__ = [
    "AttackSettings",
    "Attempt",
    "Attempts",
    "Context",
    "ask",
    "attack",
    "attack_info",
    "attack_models",
    "attack_names",
    "load_plugin",
]
