"""Shares of samples with a verdict, over all and by groups, each with the number of samples that it rests on.

Knows scores and their metadata; knows nothing of how they came about. Inspect leaves unscored samples out before a metric sees them, and
counts them in ``unscored_samples``: they are neither hits nor misses here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from inspect_ai.scorer import Metric, SampleScore, Value, metric


@metric(scores="unreduced")  # verdicts are words: Inspect would average them over epochs to nothing
def share(name: str, labels: list[str], by: list[str] | None = None, where: dict[str, str] | None = None) -> Metric:
    """The share of samples whose score is one of some labels.

    Args:
        name: what the share is called in the log.
        labels: the labels.
        by: metadata by which the share is given for each group as well.
        where: metadata that a sample must have to count; where none has it, there is no share.
    """

    def metric(scores: list[SampleScore]) -> Value:
        counted = [one for one in scores if all(_metadata(one, key) == value for key, value in (where or {}).items())]
        if scores and not counted:
            return {}
        return shares(counted, lambda one: one.score.value in labels, name=name, by=by or [])

    return metric


def shares(scores: Iterable[SampleScore], hit: Callable[[SampleScore], bool], *, name: str, by: Sequence[str]) -> dict[str, float]:
    """``{name: share, "name, samples": count}``, and ``"name, by=group"`` likewise for each group; a share of nothing is NaN.

    Args:
        scores: the samples that count.
        hit: whether one is a hit.
        name: what the share is called.
        by: metadata that name a sample's groups; a sample without one is in no group of it.
    """
    hits: dict[str, list[bool]] = {name: []}
    for one in scores:
        found = hit(one)
        hits[name].append(found)
        for key in by:
            group = _metadata(one, key)
            if group is not None:
                hits.setdefault(f"{name}, {key}={group}", []).append(found)
    result: dict[str, float] = {}
    for label, some in hits.items():
        result[label] = sum(some) / len(some) if some else float("nan")
        result[f"{label}, samples"] = float(len(some))
    return result


def _metadata(one: SampleScore, key: str) -> object:
    return (one.sample_metadata or {}).get(key)
