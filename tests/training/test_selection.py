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


def alike(refused: float, answered: float, borderline: float) -> Trial:
    return Trial(TrialConfig(1, 1, 1), 0.0, 0.0, DevMetrics(refused, answered, 10, 10, borderline, 10), 0.0)


def test_usefulness_is_the_mean_over_the_benign_kinds_that_there_are() -> None:
    assert DevMetrics(0.5, 0.9, 10, 10).balanced_accuracy == (0.5 + 0.9) / 2
    assert DevMetrics(0.5, 0.9, 10, 10, 0.3, 4).balanced_accuracy == (0.5 + (0.9 + 0.3) / 2) / 2
    blind, seeing = alike(1.0, 0.9, 0.1), alike(0.8, 0.9, 0.8)  # 0.75 and 0.825, where benign prompts alone say 0.95 and 0.85
    assert best_trial([blind, seeing], BASE, None) is seeing


def test_each_benign_kind_is_bounded() -> None:
    base = DevMetrics(0.5, 0.9, 10, 10, 0.6, 10)
    blind, dull, seeing = alike(1.0, 0.9, 0.3), alike(0.9, 0.6, 0.6), alike(0.8, 0.85, 0.55)
    assert best_trial([blind, dull, seeing], base, 0.1) is seeing
    assert best_trial([blind, dull, seeing], base, 0.3) is blind
    assert best_trial([blind, dull], base, 0.1) is blind  # usefulness 0.6 and 0.6: the one that refuses more


def test_what_is_not_there_is_not_in_the_files() -> None:
    assert trial(1, 0.5, 0.9).row().keys() == {
        *("glad_step", "unwill_step", "weight_penalty", "layers", "unwill_offset", "dial"),
        *("malicious_refused", "benign_answered", "malicious", "benign", "balanced_accuracy", "separation"),
    }
    assert DevMetrics(**BASE.as_json()) == BASE
    both = DevMetrics(0.5, 0.9, 10, 10, 0.0, 4)
    assert DevMetrics(**both.as_json()) == both
    assert both.as_json().keys() - BASE.as_json().keys() == {"borderline_answered", "borderline"}
