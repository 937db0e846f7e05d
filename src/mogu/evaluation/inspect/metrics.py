"""Shares of samples with a verdict, overall and by group, each with its number of samples.

Knows scores and their metadata; knows nothing of how they came about. Inspect drops unscored samples before a metric sees them, and
counts them in ``unscored_samples``: they are neither hits nor misses here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from inspect_ai.scorer import Metric, SampleScore, Value, metric


@metric(scores="unreduced")  # verdicts are words: Inspect would average them over epochs to nothing
def share(name: str, labels: list[str], by: list[str] | None = None, where: dict[str, str] | None = None) -> Metric:
    """Compute the share of samples whose score is among certain labels.

    Args:
        name: what the share is called in the log.
        labels: the labels.
        by: metadata keys; the share is also computed for each of their values.
        where: metadata that a sample must have to count; if no sample has them, there is no share.
    """

    def metric(scores: list[SampleScore]) -> Value:
        counted = [score for score in scores if all(_metadata(score, key) == value for key, value in (where or {}).items())]
        if scores and not counted:
            return {}
        return shares(counted, lambda score: score.score.value in labels, name=name, by=by or [])

    return metric


def shares(scores: Iterable[SampleScore], hit: Callable[[SampleScore], bool], *, name: str, by: Sequence[str]) -> dict[str, float]:
    """Compute ``{name: share, "name, samples": count}``, and likewise ``"name, by=group"`` for each group; a share of no samples is NaN.

    Args:
        scores: the samples that count.
        hit: whether a sample is a hit.
        name: what the share is called.
        by: metadata keys whose values are a sample's groups; a sample without a key is in none of its groups.
    """
    hits: dict[str, list[bool]] = {name: []}
    for score in scores:
        is_hit = hit(score)
        hits[name].append(is_hit)
        for key in by:
            group = _metadata(score, key)
            if group is not None:
                hits.setdefault(f"{name}, {key}={group}", []).append(is_hit)
    result: dict[str, float] = {}
    for label, members in hits.items():
        result[label] = sum(members) / len(members) if members else float("nan")
        result[f"{label}, samples"] = float(len(members))
    return result


def _metadata(score: SampleScore, key: str) -> object:
    return (score.sample_metadata or {}).get(key)
