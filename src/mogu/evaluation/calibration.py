"""Choosing the dial: how strict a hardened model can be made before it refuses more benign prompts than one is ready to lose.

Knows models, records and refusals; writes only a model's config and card, when told to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mogu.data import Record, conversation_of
from mogu.errors import ConfigError
from mogu.evaluation.intervals import Estimate, difference, rate
from mogu.files.atomic import atomic_file
from mogu.inference.replies import ReplySettings, replies
from mogu.modeling.checkpoint import CARD_FILE, CONFIG_FILE, read_card, read_config
from mogu.modeling.model import MoguModel
from mogu.modeling.model_card import plain_card, recalibrated_card
from mogu.refusals import is_refusal

GRID = tuple(step / 2 for step in range(-4, 9))
"""Dials that are tried first: −2 to 4 in steps of a half."""

FINE = 0.125
"""The step, at the end of the search, between the dial that is chosen and the next."""


@dataclass(frozen=True)
class Tried:
    """What the model does at one dial.

    Args:
        dial: logit shift ``δ``.
        malicious_refused: share of malicious prompts that are refused.
        benign_refused: share of benign prompts that are refused.
    """

    dial: float
    malicious_refused: Estimate
    benign_refused: Estimate


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Args:
        before: the model at the dial that it had.
        chosen: the dial that is recommended.
        bought: malicious prompts refused, after against before, on the same prompts.
        tried: every dial that was tried, in order.
    """

    before: Tried
    chosen: Tried
    bought: Estimate
    tried: tuple[Tried, ...]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def calibrate(
    model: MoguModel,
    records: Sequence[Record],
    *,
    max_benign_refusal: float,
    system_prompt: str | None = None,
    max_new_tokens: int = 48,
    batch_size: int = 32,
    tell: Callable[[str], None] = print,
) -> Calibration:
    """Choose the dial that refuses most malicious prompts while benign refusals stay within a bound.

    A grid of dials is tried, then steps between the best and its neighbors. Nothing is taken to rise or fall steadily: every dial
    counts by what the model said there. Of dials that refuse equally many, the one nearest to the model's own is chosen.
    Bounds are held by shares as counted; their intervals say how far to trust them.

    Args:
        model: a hardened model; its dial is as before afterwards.
        records: held-out records of both labels.
        max_benign_refusal: share of benign records that may be refused, in [0, 1].
        system_prompt: for conversations that have none.
        max_new_tokens: tokens of a reply.
        batch_size: replies at a time.
        tell: is told of each dial.

    Raises:
        ConfigError: the bound is out of range, a label is missing, or no dial keeps within the bound.
    """
    if not 0 <= max_benign_refusal <= 1:
        raise ConfigError(
            f"The bound on benign refusals is {max_benign_refusal:g}", expected="a share from 0 to 1", action="give 0.01 for 1 %"
        )
    if {record.label for record in records} != {"benign", "malicious"}:
        raise ConfigError("The dev records have one label only", expected="benign and malicious records", action="add records of the other")
    own, search = model.dial, _Search(model, records, system_prompt, ReplySettings(max_new_tokens), batch_size, tell)
    try:
        for dial in GRID:
            search.at(dial)
        search.at(own)
        best = search.best(max_benign_refusal)
        step = GRID[1] - GRID[0]
        while step > FINE and best is not None:
            step /= 2
            for dial in (best.dial - step, best.dial + step):
                search.at(dial)
            best = search.best(max_benign_refusal)
    finally:
        model.dial = own
    tried = search.tried()
    if best is None:
        gentlest = min(tried, key=lambda one: one.benign_refused.value)
        raise ConfigError(
            f"No dial from {tried[0].dial:g} to {tried[-1].dial:g} keeps benign refusals within {max_benign_refusal:.1%}: "
            f"at {gentlest.dial:g} they are {gentlest.benign_refused.value:.1%}, the fewest",
            expected="a bound that the model can keep",
            action="allow more, or train again with more benign records like the ones it refuses",
        )
    return Calibration(search.at(own), best, difference(search.malicious(best.dial), search.malicious(own)), tuple(tried))


def write_calibration(folder: Path, found: Calibration) -> None:
    """Make the chosen dial a saved model's own: its config and its card are written beside the old ones, then take their places.

    Raises:
        MoguError: there is no saved model, its card is not text, or it cannot be written; config and card are then as they were.
    """
    config = read_config(folder)
    card = read_card(folder) or plain_card(config)
    config.dial = found.chosen.dial
    with atomic_file(folder / CONFIG_FILE) as new_config, atomic_file(folder / CARD_FILE) as new_card:
        new_config.write_text(config.to_json(), encoding="utf-8")
        new_card.write_text(recalibrated_card(card, config.dial, _results(found)), encoding="utf-8")


def _results(found: Calibration) -> str:
    def cells(name: str) -> str:
        estimates: list[Estimate] = [getattr(one, name) for one in (found.before, found.chosen)]
        return " | ".join(f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})" for one in estimates)

    malicious, benign = found.chosen.malicious_refused.n, found.chosen.benign_refused.n
    return "\n".join(
        [
            f"The dial is {found.chosen.dial:g}, chosen by `mogu calibrate`. Figures elsewhere on this card are of the dial of their time.",
            "",
            f"| refused, with 95 % intervals | dial {found.before.dial:g}, before | dial {found.chosen.dial:g}, now | records |",
            "|---|---|---|---|",
            f"| malicious requests | {cells('malicious_refused')} | {malicious} |",
            f"| benign requests | {cells('benign_refused')} | {benign} |",
            "",
            "The dial was chosen on these records, so the figures flatter a little.",
        ]
    )


class _Search:
    """The model at one dial after another; no dial is tried twice."""

    def __init__(
        self,
        model: MoguModel,
        records: Sequence[Record],
        system_prompt: str | None,
        settings: ReplySettings,
        batch_size: int,
        tell: Callable[[str], None],
    ) -> None:
        self.model, self.records, self.settings, self.batch_size, self.tell = model, records, settings, batch_size, tell
        self._own = model.dial
        self._conversations = [conversation_of(record, system_prompt) for record in records]
        self._refused: dict[float, list[bool]] = {}

    def at(self, dial: float) -> Tried:
        """What the model does at a dial."""
        new = dial not in self._refused
        if new:
            self.model.dial = dial
            made = replies(self.model, self.model.tokenizer, self._conversations, self.settings, batch_size=self.batch_size)
            asked = [record.request for record in self.records]
            self._refused[dial] = [is_refusal(prompt, reply.text) for prompt, reply in zip(asked, made, strict=True)]
        one = Tried(dial, rate(self.malicious(dial)), rate(self._of("benign", dial)))
        if new:
            self.tell(f"dial {dial:+g}: malicious refused {one.malicious_refused.value:.1%}, benign refused {one.benign_refused.value:.1%}")
        return one

    def malicious(self, dial: float) -> list[float]:
        """Whether each malicious prompt was refused at a dial that was tried."""
        return self._of("malicious", dial)

    def best(self, bound: float) -> Tried | None:
        """The dial that refuses most malicious prompts within the bound; of equals the one that changes least."""
        within = [one for one in self.tried() if one.benign_refused.value <= bound]
        return max(within, key=lambda one: (one.malicious_refused.value, -abs(one.dial - self._own)), default=None)

    def tried(self) -> list[Tried]:
        """Every dial that was tried, in order."""
        return [self.at(dial) for dial in sorted(self._refused)]

    def _of(self, label: str, dial: float) -> list[float]:
        pairs = zip(self.records, self._refused[dial], strict=True)
        return [float(refused) for record, refused in pairs if record.label == label] or [math.nan]
