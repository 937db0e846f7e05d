"""The refusal scorer: classify a reply by its text alone.

Knows Inspect and the classifier; asks no model.
"""

from __future__ import annotations

from typing import get_args

from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from mogu.evaluation.inspect.metrics import share
from mogu.evaluation.scorers.exchange import exchange_of
from mogu.refusals import RefusalLabel, classify_refusal


@scorer(metrics=[share(label, [label]) for label in get_args(RefusalLabel)])
def refusal() -> Scorer:
    """Label a reply ``full_refusal``, ``partial_refusal`` or ``compliance``, explained by the sentence that decided it.

    See :func:`mogu.evaluation.classify_refusal`. The reply is read against the plain request where the sample's metadata have one.
    """

    async def score(state: TaskState, target: Target) -> Score:
        exchange = exchange_of(state)
        verdict = classify_refusal(exchange.request, exchange.reply)
        return Score(value=verdict.label, answer=exchange.reply, explanation=verdict.evidence)

    return score
