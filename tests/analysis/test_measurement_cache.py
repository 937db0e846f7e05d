"""A measurement counts only for the model and the settings that it was made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mogu import MoguModel
from mogu.analysis.measurement_cache import MeasurementCache, model_fingerprint
from mogu.analysis.tendency import PromptWithOpenings


def test_measurements_of_other_models_or_settings_do_not_count(make_pair: Callable[..., Any], tmp_path: Path) -> None:
    model: MoguModel = make_pair("llama")[0]
    seen = {model_fingerprint(model)}
    model.dial = 0.5
    seen.add(model_fingerprint(model))
    with model.routing("off"):
        seen.add(model_fingerprint(model))
    with torch.no_grad():
        model.base_model.lm_head.weight[-1, -1] += 1
    seen.add(model_fingerprint(model))
    assert len(seen) == 4

    prompt = PromptWithOpenings((1, 2), ((3,), (4, 5)))
    MeasurementCache(tmp_path, "a").add([(prompt, (-1.0, -2.0))])
    assert MeasurementCache(tmp_path, "a").find(prompt) == (-1.0, -2.0)
    assert MeasurementCache(tmp_path, "b").find(prompt) is None
    assert MeasurementCache(tmp_path, "a").find(PromptWithOpenings((1, 2), ((3,), (4, 6)))) is None
