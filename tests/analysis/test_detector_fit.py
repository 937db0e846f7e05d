"""Which prompts the layer of a detector is chosen by: all of a few, a share of each label of many, and no label too few."""

from __future__ import annotations

import pytest
import torch

from mogu.analysis.detector_fit import FOLDS, MOST_TO_CHOOSE_BY, prompts_to_choose_by


@pytest.mark.parametrize(
    ("malicious", "benign", "drawn"),
    [(10, 90, (10, 90)), (3, 3997, (3, 3997)), (3, 79_997, (3, 4000)), (40, 79_960, (FOLDS, 3998)), (20_000, 20_000, (2000, 2000))],
)
def test_prompts_to_choose_a_layer_by(malicious: int, benign: int, drawn: tuple[int, int]) -> None:
    labels = torch.tensor([1] * malicious + [0] * benign)
    found = prompts_to_choose_by(labels)
    assert found.tolist() == sorted(set(found.tolist()))
    assert (int(labels[found].sum()), int((1 - labels[found]).sum())) == drawn
    assert len(found) <= MOST_TO_CHOOSE_BY + FOLDS
