"""The grid of a comparison: which defenses, how far turned, on which prompts, with which seeds.

Knows names and numbers; loads, trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mogu.defenses import defense_names
from mogu.errors import ConfigError

LAB_MODEL = "lab"
SHIFTS = (-2.0, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""How far MoGU's dial is turned from the model's own setting, where it is measured beside that."""

ROUTED = ("mogu", "mogu_v2")
"""Defenses that are a MoGU model."""

OWN_OPENINGS = "own"
"""Stands for the project's openings where another tendency names a file."""

UNTRAINED = frozenset({"none", "self_reminder", "self_examine", "icd"})
"""Defenses without anything trained or drawn: greedy, their replies are the same whatever the seed."""


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        model: ``"lab"``, or a saved MoGU model: a folder or a hub id.
        v2: a saved MoGU V2 model on the same base, shown beside ``model``; of the lab one is trained anyway.
        out: folder of everything that is written.
        defenses: names, in the order of the report.
        data: sources of prompts, see :func:`mogu.evaluation.prompts.read_asked`.
        limit: prompts of each category of each source; ``None`` is all.
        jailbreaks: ask plain prompts in jailbreaks as well, see there.
        seeds: how many seeds; they decide what is trained and drawn.
        baselines: folder of baselines that are trained already; by default they are trained into ``out``.
        shifts: how far MoGU's dial is turned from the model's own setting, where it is measured beside that.
        max_new_tokens: tokens of a reply.
        batch_size: replies at a time.
        cost_prompts: prompts on which time is measured.
        cost_rounds: how often each of them is.
        settings: ``section.key=value`` overrides of the lab's recipe.
        base_model: where the base of a saved model is now.
        dtype: floating-point type to load it in.
        chat_template: a Jinja file in place of the tokenizer's template.
        trust_remote_code: whether the base model's own code may run.
        judge: an Inspect model that rates replies besides: how harmful those to malicious prompts are, how useful the others.
        tendency: measure the base model's tendency on each prompt, with ``"own"`` openings or those of a JSON file, and correlate it.
        command: the command line that asked for it, for the report.
    """

    model: str
    out: Path
    defenses: tuple[str, ...] = ()
    data: tuple[str, ...] = ("lab",)
    limit: int | None = None
    jailbreaks: str | None = None
    seeds: int = 1
    baselines: Path | None = None
    shifts: tuple[float, ...] = SHIFTS
    max_new_tokens: int = 48
    batch_size: int = 32
    cost_prompts: int = 20
    cost_rounds: int = 5
    settings: tuple[str, ...] = ()
    base_model: str | None = None
    dtype: str = "auto"
    chat_template: Path | None = None
    trust_remote_code: bool = False
    judge: str | None = None
    v2: str | None = None
    tendency: str | None = None
    command: str = ""

    def named(self) -> tuple[str, ...]:
        """The defenses: those that were named, else all.

        Raises:
            ConfigError: there is no such defense.
        """
        known = defense_names()
        if unknown := [name for name in self.defenses if name not in known]:
            raise ConfigError(
                f"There is no defense {unknown[0]!r}", expected=f"all, or some of {', '.join(known)}", action="correct the name"
            )
        second = self.model == LAB_MODEL or self.v2 is not None
        if "mogu_v2" in self.defenses and not second:
            raise ConfigError("No MoGU V2 model is named for the defense mogu_v2", expected="--v2 MODEL", action="name one")
        return tuple(name for name in known if (name in self.defenses if self.defenses else second or name != "mogu_v2"))

    def variants(self) -> list[Variant]:
        """Every defense as it is, then MoGU with its dial turned."""
        names = self.named()
        turned = [Variant("mogu", shift) for shift in dict.fromkeys(self.shifts) if shift] if "mogu" in names else []
        return [*(Variant(name) for name in names), *turned]

    def seed_of(self, variant: Variant, seed: int) -> int:
        """The seed under which a variant is measured for a given one: the first where the seed could change nothing."""
        fixed = variant.defense in UNTRAINED or (variant.defense in ROUTED and self.model != LAB_MODEL)
        return 0 if fixed else seed


@dataclass(frozen=True)
class Variant:
    """A defense, in MoGU's case perhaps with its dial turned.

    Args:
        defense: its name.
        shift: how far the dial ``δ`` is turned from the model's own; ``None`` where it is not.
    """

    defense: str
    shift: float | None = None

    @property
    def name(self) -> str:
        """A name for files and logs."""
        return self.defense if self.shift is None else f"{self.defense}@{self.shift:+g}"


def check(comparison: Comparison) -> None:
    """Refuse settings out of their range.

    Raises:
        ConfigError: a number cannot be used, or no defense is left.
    """
    numbers: Sequence[tuple[str, int | None]] = (("seeds", comparison.seeds), ("limit", comparison.limit))
    for name, number in numbers:
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}", expected="a whole number from 1", action="correct it")
    comparison.named()
