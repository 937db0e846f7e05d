"""Fitting a stream head: what it hears in generation is what it was fitted to, and it finds the answers that turn malicious."""

from __future__ import annotations

import torch

from mogu.modeling.gated.gate import StreamReading
from mogu.training.gated.stream import alarms, fit_stream_head

TAPS = [2, 5]


def answers(count: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Answers that turn malicious somewhere in the midst, the prompt's logit telling little."""
    random = torch.Generator().manual_seed(seed)
    malicious = torch.rand(count, generator=random) < 0.4
    states = []
    for label in malicious.tolist():
        length = int(torch.randint(4, 12, (1,), generator=random))
        of_answer = torch.randn(length, 2, 6, generator=random) * torch.tensor([1.0, 20.0])[:, None] + 3.0
        if label:
            of_answer[int(torch.randint(length, (1,), generator=random)) :, 0, 2] += 4.0
        states.append(of_answer)
    logits = torch.randn(count, generator=random) + malicious.float()
    return states, logits, malicious


def test_answers_that_turn_malicious_raise_an_alarm():
    head = fit_stream_head(*answers(600, 0), TAPS, l2=1e-4)
    states, logits, malicious = answers(400, 1)
    rung = alarms(head, states, logits)
    harmless, harmful = rung[~malicious], rung[malicious]
    assert float((harmful[:, None] > harmless[None]).float().mean()) > 0.97
    by_prompt = (logits[malicious][:, None] > logits[~malicious][None]).float().mean()
    assert float(by_prompt) < 0.85


def test_what_is_fitted_is_what_generation_hears_token_by_token():
    head = fit_stream_head(*answers(60, 2), TAPS, l2=0.01)
    states, logits, _ = answers(5, 3)
    for of_answer, logit, alarm in zip(states, logits, alarms(head, states, logits).tolist(), strict=True):
        reading = StreamReading(head, logit[None])
        heard = []
        for token in of_answer:
            for index, tap in enumerate(TAPS):
                reading.read(tap, token[index][None, None])
            heard.append(float(reading.probabilities()))
        assert abs(max(heard) - alarm) < 1e-5
    assert alarms(head, [torch.zeros(0, 2, 6)], torch.zeros(1)).tolist() == [0.0]


def test_a_repeated_answer_changes_nothing_by_its_length():
    """Each answer counts as much as any other, so that doubling a token of one answer is doubling nothing."""
    states, logits, malicious = answers(40, 4)
    constant = [of_answer[:1].expand(length, -1, -1) for of_answer, length in zip(states, (3, 7) * 20, strict=True)]
    once = [of_answer[:1] for of_answer in states]
    by_length, by_one = (fit_stream_head(part, logits, malicious, TAPS, l2=0.5) for part in (constant, once))
    # The standardization sees tokens, the fit answers: the heads need not be equal, but rank alike.
    ranks = [alarms(head, once, logits).argsort().argsort().float() for head in (by_length, by_one)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.99
