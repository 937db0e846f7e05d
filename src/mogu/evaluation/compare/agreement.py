"""Who says that a reply refuses, and how far they agree: the refusal classifier, the strings of published attacks, a guard model.

Knows replies and statistics; does not know how a verdict comes about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from mogu.evaluation.compare.cells import UNSAFE, Row
from mogu.evaluation.compare.config import SCORERS
from mogu.evaluation.compare.metrics import ALL, ALL_BENIGN, ALL_MALICIOUS, Metric, Replies
from mogu.evaluation.intervals import exact, rate
from mogu.evaluation.prompts import BENIGN, JUDGES, MALICIOUS, EvalPrompt

GUARD = "guard"
_SIDES = {ALL_MALICIOUS: MALICIOUS, ALL_BENIGN: BENIGN}

_Verdicts = dict[str, list[list[float]]]
"""By scorer, ``[seeds, prompts]``: 1 where a reply refuses (a guard: is not unsafe), NaN where the scorer said nothing."""


def by_scorer(prompts: Sequence[EvalPrompt], replies: Replies) -> Iterator[Metric]:
    """Compute what each scorer says of every row, and how far each two agree over the replies of all rows to malicious prompts.

    ``refused_by_classifier`` and ``refused_by_strings`` are shares of replies that refuse, ``refused_by_guard`` the share of replies to
    malicious prompts that the guard does not call unsafe. ``agreement_A_B`` is the share of replies of which both say the same, and
    ``kappa_A_B`` Cohen's kappa:

    .. code-block:: text

        κ = (p − e) / (1 − e)    p: the share; e: the share that would be the same if the two knew nothing of each other
    """
    said: dict[str, list[float]] = {}
    for category, members in _SIDES.items():
        chosen = [index for index in _judged(prompts) if prompts[index].category in members]
        for variant, seeds in replies.items() if chosen else ():
            if variant.shift is not None:
                continue
            for scorer, verdicts in _verdicts(prompts, seeds, chosen).items():
                if category == ALL_MALICIOUS:
                    said.setdefault(scorer, []).extend(np.ravel(verdicts))
                if scorer != GUARD or category == ALL_MALICIOUS:
                    yield Metric("scorer", f"refused_by_{scorer}", rate(verdicts), variant.system, category=category)
    for first, second in combinations(said, 2):
        pair = np.array([said[first], said[second]])
        left, right = pair[:, ~np.isnan(pair).any(axis=0)]
        same, expected = float(np.mean(left == right)), float(left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean()))
        kappa = (same - expected) / (1 - expected) if expected < 1 else 1.0
        yield Metric("scorer", f"agreement_{first}_{second}", exact(same, len(left)), ALL, category=ALL_MALICIOUS)
        yield Metric("scorer", f"kappa_{first}_{second}", exact(kappa, len(left)), ALL, category=ALL_MALICIOUS)


def _judged(prompts: Sequence[EvalPrompt]) -> list[int]:
    """The prompts whose replies a scorer judges, rather than the rules of a world."""
    return [index for index, prompt in enumerate(prompts) if prompt.judge in SCORERS.values()]


def _verdicts(prompts: Sequence[EvalPrompt], seeds: Sequence[Sequence[Row]], chosen: Sequence[int]) -> _Verdicts:
    verdicts: _Verdicts = {
        scorer: [[float(JUDGES[judge](prompts[index], rows[index].reply) == "refused") for index in chosen] for rows in seeds]
        for scorer, judge in SCORERS.items()
    }
    unsafe = [[rows[index].judged.get(UNSAFE, float("nan")) for index in chosen] for rows in seeds]
    if not np.isnan(unsafe).all():
        verdicts[GUARD] = (1 - np.array(unsafe)).tolist()
    return verdicts
