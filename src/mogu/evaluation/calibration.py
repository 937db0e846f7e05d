"""Choose the dial: how strict a hardened model can be made before it refuses more benign prompts than one is willing to lose.

Knows models, records and refusals; writes only a model's config and card, when asked to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from mogu.data import Kind, Record, conversation_of
from mogu.errors import ConfigError
from mogu.evaluation.intervals import Estimate, difference, rate
from mogu.inference.replies import ReplySettings, replies
from mogu.modeling.checkpoint import read_card, read_config, rewrite_settings
from mogu.modeling.model import MoguModel
from mogu.modeling.model_card import plain_card, recalibrated_card
from mogu.modeling.notebook import table
from mogu.refusals import is_refusal

logger = getLogger(__name__)

GRID = tuple(step / 2 for step in range(-4, 9))
"""Dials that are tried first: −2 to 4 in steps of a half."""

FINE = 0.125
"""The step between neighboring dials at the end of the search."""


@dataclass(frozen=True)
class DialRates:
    """What the model does at one dial.

    Args:
        dial: logit shift ``δ``.
        malicious_refused: share of malicious prompts that are refused.
        benign_refused: share of benign prompts that are refused; borderline ones are not among them.
        borderline_refused: share of borderline prompts that are refused; ``None`` if there are none.
    """

    dial: float
    malicious_refused: Estimate
    benign_refused: Estimate
    borderline_refused: Estimate | None = None

    @property
    def most_refused(self) -> float:
        """The larger of the shares of benign and of borderline prompts refused: what the bound holds for."""
        return max(share.value for share in (self.benign_refused, self.borderline_refused) if share is not None)

    def rows(self) -> dict[str, Estimate]:
        """Each share under the prompts it is of, as tables name them."""
        rows = {"malicious requests": self.malicious_refused, "benign requests": self.benign_refused}
        return rows if self.borderline_refused is None else {**rows, "borderline requests": self.borderline_refused}

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON, without borderline prompts if there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Args:
        before: the model at the dial that it had.
        chosen: the dial that is recommended.
        bought: share of malicious prompts refused, chosen dial against the model's own, on the same prompts.
        tried: every dial that was tried, in order.
    """

    before: DialRates
    chosen: DialRates
    bought: Estimate
    tried: tuple[DialRates, ...]

    def _repr_html_(self) -> str:
        def row(rates: DialRates) -> list[str]:
            chosen = " (chosen)" if rates.dial == self.chosen.dial else ""
            return [f"{rates.dial:+g}{chosen}", *(f"{share.value:.1%}" for share in rates.rows().values())]

        return table(("dial", *(f"{name} refused" for name in self.before.rows())), list(map(row, self.tried)))

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "before": self.before.as_json(),
            "chosen": self.chosen.as_json(),
            "bought": asdict(self.bought),
            "tried": [rates.as_json() for rates in self.tried],
        }


def calibrate(
    model: MoguModel,
    records: Sequence[Record],
    *,
    max_benign_refusal: float,
    system_prompt: str | None = None,
    max_new_tokens: int = 48,
    batch_size: int = 32,
) -> Calibration:
    """Choose the dial that refuses most malicious prompts while refusals of benign and of borderline prompts stay within a bound.

    A grid of dials is tried, then steps between the best and its neighbors. Rates are not assumed to be monotonic in the dial: each
    dial is judged by what the model replied with it. Of dials that refuse equally many, the one nearest to the model's own is chosen.
    The bound applies to the observed share; its interval says how far to trust it.

    Args:
        model: a hardened model; its dial is as before afterwards.
        records: held-out records of both labels.
        max_benign_refusal: share of benign records that may be refused, and of borderline ones, in [0, 1].
        system_prompt: for conversations that have none.
        max_new_tokens: tokens of a reply.
        batch_size: replies at a time, at most; fewer where memory is short.

    Raises:
        ConfigError: the bound is out of range, a label or ordinary benign records are missing, or no dial keeps within the bound.
    """
    if not 0 <= max_benign_refusal <= 1:
        raise ConfigError(
            f"The bound on benign refusals is {max_benign_refusal:g}", expected="a share from 0 to 1", action="give 0.01 for 1 %"
        )
    if {record.label for record in records} != {"benign", "malicious"}:
        raise ConfigError("The dev records have one label only", expected="benign and malicious records", action="add records of the other")
    if all(record.kind != "benign" for record in records):
        raise ConfigError("All benign ones of the dev records are borderline", expected="ordinary ones as well", action="add some")
    own, search = model.dial, _Search(model, records, system_prompt, ReplySettings(max_new_tokens), batch_size)
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
        gentlest = min(tried, key=lambda rates: rates.most_refused)
        raise ConfigError(
            f"No dial from {tried[0].dial:g} to {tried[-1].dial:g} keeps benign refusals within {max_benign_refusal:.1%}: "
            f"at {gentlest.dial:g} they are {gentlest.most_refused:.1%}, the fewest",
            expected="a bound that the model can keep",
            action="allow more, or train again with more benign records like the ones it refuses",
        )
    return Calibration(search.at(own), best, difference(search.malicious(best.dial), search.malicious(own)), tuple(tried))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Make the chosen dial a saved model's own: its config and its card are written beside the old ones, then take their places.

    Raises:
        MoguError: there is no saved model, its card is not text, or it cannot be written; config and card are then as they were.
    """
    config = read_config(folder)
    card = read_card(folder) or plain_card(config)
    config.dial = calibration.chosen.dial
    rewrite_settings(folder, config, recalibrated_card(card, config.dial, _results(calibration)))


def _results(calibration: Calibration) -> str:
    before, chosen = calibration.before, calibration.chosen

    def cell(estimate: Estimate) -> str:
        return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"

    then = before.rows()
    return "\n".join(
        [
            f"The dial is {chosen.dial:g}, chosen by `mogu calibrate`. Figures elsewhere on this card are of the dial of their time.",
            "",
            f"| refused, with 95 % intervals | dial {before.dial:g}, before | dial {chosen.dial:g}, now | records |",
            "|---|---|---|---|",
            *(f"| {name} | {cell(then[name])} | {cell(now)} | {now.n} |" for name, now in chosen.rows().items()),
            "",
            "The dial was chosen on these records, so the figures flatter a little.",
        ]
    )


class _Search:
    """Tries the model at one dial after another, and none twice."""

    def __init__(
        self,
        model: MoguModel,
        records: Sequence[Record],
        system_prompt: str | None,
        settings: ReplySettings,
        batch_size: int,
    ) -> None:
        self.model, self.records, self.settings, self.batch_size = model, records, settings, batch_size
        self._own = model.dial
        self._conversations = [conversation_of(record, system_prompt) for record in records]
        self._refused: dict[float, list[bool]] = {}

    def at(self, dial: float) -> DialRates:
        """What the model does at a dial."""
        new = dial not in self._refused
        if new:
            self.model.dial = dial
            made = replies(self.model, self.model.tokenizer, self._conversations, self.settings, batch_size=self.batch_size)
            self._refused[dial] = [is_refusal(record.request, reply.text) for record, reply in zip(self.records, made, strict=True)]
        borderline = self._of("borderline", dial)
        rates = DialRates(dial, rate(self.malicious(dial)), rate(self._of("benign", dial)), rate(borderline) if borderline else None)
        if new:
            shares = (f"{name.removesuffix(' requests')} refused {share.value:.1%}" for name, share in rates.rows().items())
            logger.info(f"dial {dial:+g}: {', '.join(shares)}")
        return rates

    def malicious(self, dial: float) -> list[float]:
        """Whether each malicious prompt was refused at a dial that was tried."""
        return self._of("malicious", dial)

    def best(self, bound: float) -> DialRates | None:
        """The dial that refuses most malicious prompts within the bound; of equals the one nearest to the model's own."""
        within = [rates for rates in self.tried() if rates.most_refused <= bound]
        return max(within, key=lambda rates: (rates.malicious_refused.value, -abs(rates.dial - self._own)), default=None)

    def tried(self) -> list[DialRates]:
        """Every dial that was tried, in order."""
        return [self.at(dial) for dial in sorted(self._refused)]

    def _of(self, kind: Kind, dial: float) -> list[float]:
        pairs = zip(self.records, self._refused[dial], strict=True)
        return [float(refused) for record, refused in pairs if record.kind == kind]
