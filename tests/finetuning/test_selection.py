"""Which of several tuned models is kept."""

from __future__ import annotations

from mogu.finetuning.evaluate import SafetyScore, Score, TaskScore
from mogu.finetuning.selection import TuningTrial, safest
from mogu.finetuning.strategies import Strategy


def score(task: float, direct: float, jailbroken: float, benign: float) -> Score:
    return Score(TaskScore(1.0, task, 10, None, 0, False), SafetyScore(direct, jailbroken, benign, 10, 10))


def test_the_safest_is_kept_of_those_that_lose_little() -> None:
    plain = TuningTrial(Strategy(), score(0.90, 0.1, 0.0, 0.0))
    some = TuningTrial(Strategy(0.1), score(0.89, 0.6, 0.4, 0.02))
    much = TuningTrial(Strategy(0.2), score(0.88, 0.9, 0.3, 0.04))
    blunt = TuningTrial(Strategy(0.3), score(0.90, 1.0, 1.0, 0.5))  # refuses everything
    dull = TuningTrial(Strategy(0.4), score(0.50, 1.0, 1.0, 0.0))  # does not do its task
    every = [plain, some, much, blunt, dull]
    before = score(0.1, 0.9, 0.2, 0.0)
    assert safest(every, before, max_task_loss=0.02, max_benign_loss=0.05) is much
    assert safest(every, before, max_task_loss=0.01, max_benign_loss=0.05) is some
    assert safest(every, before, max_task_loss=0.02, max_benign_loss=0.03) is some
    assert safest(every, before, max_task_loss=0.02, max_benign_loss=1.0) is blunt
    assert safest(every, before, max_task_loss=1.0, max_benign_loss=0.05) is dull
    # What the model refused before, it may go on refusing.
    assert safest(every, score(0.1, 0.9, 0.2, 0.5), max_task_loss=0.02, max_benign_loss=0.0) is blunt
    # None is within bounds: the one that refuses fewest benign prompts.
    assert safest([some, blunt, much], before, max_task_loss=0.02, max_benign_loss=0.0) is some
    unknown = [TuningTrial(trial.strategy, Score(trial.score.task, None)) for trial in every]
    assert safest(unknown, Score(before.task, None), max_task_loss=0.02, max_benign_loss=0.05) is unknown[0]


def test_borderline_prompts_are_bounded_as_other_benign_ones_are() -> None:
    def alike(jailbroken: float, benign: float, borderline: float) -> Score:
        return Score(TaskScore(1.0, 0.9, 10, None, 0, False), SafetyScore(1.0, jailbroken, benign, 10, 10, borderline, 5))

    before = alike(0.2, 0.0, 0.4)
    blind, seeing = TuningTrial("blind", alike(0.9, 0.0, 0.8)), TuningTrial("seeing", alike(0.6, 0.02, 0.44))
    assert safest([blind, seeing], before, max_task_loss=0.02, max_benign_loss=0.05) is seeing
    assert safest([blind, seeing], before, max_task_loss=0.02, max_benign_loss=0.4) is blind
    assert safest([blind, seeing], before, max_task_loss=0.02, max_benign_loss=0.01) is seeing  # 0.23 refused on average, not 0.4
    assert seeing.row()["borderline refusals"] == 0.44
    assert "borderline refusals" not in score(0.9, 1.0, 0.5, 0.1).rows()
    assert score(0.9, 1.0, 0.5, 0.1).as_json()["safety"].keys() == {
        *("direct_refused", "jailbroken_refused", "benign_refused", "malicious", "benign"),
    }
