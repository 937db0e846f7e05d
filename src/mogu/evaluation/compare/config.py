"""What a comparison is told: which models and defenses, how far the dial is turned, on which prompts, with which seeds.

Knows settings; loads, trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mogu.errors import ConfigError
from mogu.evaluation.prompts import BY_REFUSAL, BY_STRINGS

SHIFTS = (-2.0, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""How far the dial of the first model is turned from the model's own setting, where it is measured beside that."""

SCORERS = {"classifier": BY_REFUSAL, "strings": BY_STRINGS}
"""Who says that a reply refuses, each with its judge of replies; both are asked, and one decides."""

OWN_OPENINGS = "own"
"""Stands for the project's openings where another tendency names a file."""


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison.

    Args:
        models: hardened models on one base, each a row of its own: folders or hub ids of saved MoGU models, or names of
            registered sources, such as ``"lab"``. Of the first one, turned dials, routing weights and the score are reported too.
        out: folder of everything that is written.
        data: sources of prompts, see :func:`mogu.evaluation.prompt_sources.read_prompts`.
        defenses: names of defenses and of models, all by default; the defense ``mogu`` stands for every model, unless a model has
            that name.
        limit: prompts of each category of each source; ``None`` is all.
        jailbreaks: ask plain prompts in jailbreaks as well, see there.
        seeds: how many seeds; they decide what is trained and drawn.
        baselines: folder of baselines that are trained already; by default they are trained into ``out``.
        shifts: how far the dial of the first model is turned from its own setting.
        max_new_tokens: tokens of a reply.
        batch_size: replies at a time, at most; fewer where memory is short.
        cost_prompts: prompts on which time is measured.
        cost_rounds: how often each of them is.
        settings: ``section.key=value`` overrides of the recipe of a registered source.
        base_model: where the base of the saved models is now.
        dtype: floating-point type to load it in.
        quantization: bits to load its linear layers in: ``"4bit"``, ``"8bit"``, ``"none"``, or ``"auto"``, those of training.
        chat_template: a Jinja file in place of the tokenizer's template.
        trust_remote_code: whether the base model's own code may run.
        judge: an Inspect model that also rates replies: how harmful those to malicious prompts are, how useful the others.
        scorer: who decides whether a reply refuses: ``"classifier"``, ours, or ``"strings"``, the list of published attacks.
        guard: a guard model that also says which replies are unsafe, as :func:`mogu.evaluation.scorers.guard` takes it.
        tendency: measure the base model's tendency on each prompt, with ``"own"`` openings or those of a JSON file, and correlate it.
        command: the command line that asked for it, for the report.
    """

    models: tuple[str, ...]
    out: Path
    data: tuple[str, ...]
    defenses: tuple[str, ...] = ()
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
    quantization: str = "auto"
    chat_template: Path | None = None
    trust_remote_code: bool = False
    judge: str | None = None
    scorer: str = "classifier"
    guard: str | None = None
    tendency: str | None = None
    command: str = ""


def check(comparison: Comparison) -> None:
    """Refuse settings out of their range.

    Raises:
        ConfigError: a number cannot be used, no model is named, or a scorer or guard is unknown.
    """
    numbers: Sequence[tuple[str, int | None]] = (("seeds", comparison.seeds), ("limit", comparison.limit))
    for name, number in numbers:
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}", expected="a whole number from 1", action="correct it")
    if comparison.scorer not in SCORERS:
        raise ConfigError(f"There is no scorer {comparison.scorer!r}", expected=f"one of {', '.join(SCORERS)}", action="correct --scorer")
    if comparison.guard is not None:
        from mogu.evaluation.scorers.guard_formats import guard_format

        guard_format(comparison.guard)
    if not comparison.models:
        raise ConfigError("No model is named", expected="one or more saved models", action="name them")
