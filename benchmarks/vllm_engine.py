"""An engine of vLLM's in a process of its own, which answers many requests at once and says when each got its tokens.

Knows vLLM and seconds; knows nothing of saved models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Load:
    """The requests that an engine gets in one turn, all at once."""

    requests: int
    prompt: int
    new_tokens: int
    rounds: int


@dataclass(frozen=True)
class Turn:
    """What an engine did in one turn.

    Args:
        seconds: until all requests were answered.
        first: until the first token, of each request.
        between: from each token of an answer to the next, of all answers.
    """

    seconds: float
    first: list[float]
    between: list[float]


class Engine:
    """A vLLM engine and the process that computes for it."""

    def __init__(self, base: Path, load: Load, **options: Any) -> None:
        from vllm import LLM

        earlier = set(psutil.Process().children(recursive=True))
        length = load.prompt + load.new_tokens
        self.llm = LLM(
            str(base),
            dtype="float32",
            enforce_eager=True,
            skip_tokenizer_init=True,
            max_model_len=2 * length,
            max_num_seqs=load.requests,
            enable_prefix_caching=False,  # what is measured is work, not reuse
            **options,
        )
        self.processes = [process for process in psutil.Process().children(recursive=True) if process not in earlier]

    def turn(
        self, prompts: Sequence[list[int]], new_tokens: int, adapter: Path | None, settings: Sequence[Mapping[str, Any] | None]
    ) -> Turn:
        """Answer all prompts, each with exactly ``new_tokens`` tokens.

        Args:
            prompts: token ids.
            new_tokens: of each answer.
            adapter: the folder of a saved model; ``None`` asks the base model.
            settings: what each request asks of the saved model.
        """
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        lora = None if adapter is None else LoRARequest("mogu", 1, str(adapter))
        started = time.perf_counter()
        for number, (prompt, asked) in enumerate(zip(prompts, settings, strict=True)):
            parameters = SamplingParams(
                temperature=0,
                max_tokens=new_tokens,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,  # as streaming callers get them
                extra_args={"mogu": dict(asked)} if asked else None,
            )
            engine.add_request(str(number), {"prompt_token_ids": prompt}, parameters, lora_request=lora)
        arrivals: list[list[float]] = [[] for _ in prompts]
        while engine.has_unfinished_requests():
            outputs = engine.step()
            now = time.perf_counter() - started
            for output in outputs:
                arrivals[int(output.request_id)] += [now] * len(output.outputs[0].token_ids)
        assert all(len(of_one) == new_tokens for of_one in arrivals)
        between = [later - earlier for of_one in arrivals for earlier, later in pairwise(of_one)]
        return Turn(max(of_one[-1] for of_one in arrivals), [of_one[0] for of_one in arrivals], between)

    def resident(self) -> int:
        """Return the bytes of resident memory of the engine's processes."""
        return sum(process.memory_info().rss for process in self.processes)
