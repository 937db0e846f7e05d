"""Which trial is kept, by what it does on the dev records."""

from __future__ import annotations

from mogu.training.selection import DevMetrics, Trial, TrialConfig, best_trial, spans

BASE = DevMetrics(malicious_refused=0.5, benign_answered=0.9, malicious=10, benign=10)


def trial(penalty: float, refused: float, answered: float, separation: float = 0.0) -> Trial:
    return Trial(TrialConfig(1, 1, penalty), 0.0, 0.0, DevMetrics(refused, answered, 10, 10), separation)


def test_the_choice_weighs_refusing_and_answering_alike() -> None:
    cautious, balanced, parted = trial(1, 1.0, 0.5), trial(2, 0.9, 0.8), trial(3, 0.8, 0.9, separation=0.4)
    assert best_trial([cautious, balanced], BASE, None) is balanced
    assert best_trial([cautious, balanced, parted], BASE, None) is parted
    assert best_trial([balanced, trial(4, 0.9, 0.8)], BASE, None) is balanced


def test_within_a_bound_on_benign_loss_the_choice_refuses_as_much_as_it_can() -> None:
    cautious, balanced, timid = trial(1, 1.0, 0.5), trial(2, 0.9, 0.8), trial(3, 0.6, 0.9)
    assert best_trial([cautious, balanced, timid], BASE, 0.1) is balanced
    assert best_trial([cautious, balanced, timid], BASE, 0.4) is cautious
    assert best_trial([cautious, balanced, timid], BASE, 0.0) is timid
    assert best_trial([cautious, balanced], BASE, 0.0) is balanced  # none is within it: the one that answers most


def test_spans_of_layers() -> None:
    assert spans([3]) == "3"
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2+5+7-8"
