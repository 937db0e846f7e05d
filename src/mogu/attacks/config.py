"""What `mogu attack` is told: which models and defenses, on which behaviors, with which attacks and budgets.

Knows settings; loads, attacks and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mogu.attacks.attempt import attack_info, attack_names
from mogu.errors import ConfigError
from mogu.evaluation.compare import Comparison

LIMIT, TOKENS = 40, 48
"""Requests, and tokens of a reply, where the user says nothing."""
FLOPS = 5e12
"""Floating-point operations on one behavior, at most, where the user sets no budget: 40 behaviors then take an attack that spends all of
it ten minutes on two cores, and a few seconds on a large GPU, which can do with a hundred times as much."""
QUICK_LIMIT, QUICK_QUERIES, QUICK_FLOPS, QUICK_TOKENS = 3, 5, 2e11, 32
"""Requests, attempts on each, operations on each and tokens of a reply of a first look, which ends within ten minutes on two cores."""


@dataclass(frozen=True)
class AttackSettings:
    """The settings of an attack.

    Args:
        comparison: models, defenses, data, seeds and how they are loaded, as for `mogu compare`; of its data the plain malicious
            requests are attacked, and of its seeds the first is used.
        attacks: names of attacks; all that have what they need by default.
        queries: attempts on one behavior, at most; by default each attack's own number.
        flops: floating-point operations on one behavior, at most.
        keep_replies: keep the texts of attempts and replies in the cells; otherwise only outcomes are kept.
        options: what attacks need, by option: ``templates``, ``transferred`` or ``translated``, each a source of prompts or a file.
    """

    comparison: Comparison
    attacks: tuple[str, ...] = ()
    queries: int | None = None
    flops: float = FLOPS
    keep_replies: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def chosen(self) -> list[str]:
        """The names of the attacks that are made, in the order of reports.

        Raises:
            ConfigError: an attack is unknown, or is named without what it needs.
        """
        for name in self.attacks:
            needs = attack_info(name).needs
            if needs is not None and needs not in self.options:
                raise ConfigError(
                    f"The attack {name} has no prompts to send", expected="a source of them", action=f"name it with --{needs}"
                )
        ready = [name for name in attack_names() if (needs := attack_info(name).needs) is None or needs in self.options]
        return [name for name in ready if not self.attacks or name in self.attacks]

    def check(self) -> None:
        """Refuse budgets out of their range.

        Raises:
            ConfigError: a budget is not positive.
        """
        if self.queries is not None and self.queries < 1:
            raise ConfigError(f"--queries is {self.queries}", expected="a whole number from 1", action="correct it")
        if not 0 < self.flops < math.inf:
            raise ConfigError(f"--flops is {self.flops}", expected="a number above 0, such as 1e13", action="correct it")
