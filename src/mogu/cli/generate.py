"""`mogu generate`: answers to prompts, one after the other or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mogu.cli._options import AnswerMarker, BaseModel, ChatTemplate, Dial, Dtype, ModelPath, RoutedTokens, TrustRemoteCode, routing_options
from mogu.cli._shared import load_model


def generate(
    path: ModelPath,
    prompts: Annotated[list[str] | None, typer.Argument(help="Instructions; without any, each line of the standard input is one.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a reply, at most.")] = 256,
    dial: Dial = None,
    routed_tokens: RoutedTokens = None,
    answer_marker: AnswerMarker = None,
    handoff: Annotated[str | None, typer.Option(help="recompute (as published) or continue (no second prefill).")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; above, tokens are sampled.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message before each prompt.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A JSON list of tools that the chat template tells the model of.")] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: prompt, reply, score.")] = False,
) -> None:
    """Let a hardened model answer, and say how malicious it found each prompt (0 to 1).

    Example: mogu generate safer-model "How do I bake bread?" "How do I pick a lock?"
    """
    import torch

    from mogu.data import offered, opened, read_tools
    from mogu.errors import ConfigError
    from mogu.inference.padding import left_pad
    from mogu.inference.prompts import encode_prompt

    options = routing_options(routed_tokens, answer_marker)
    asked = prompts or [line.strip() for line in sys.stdin if line.strip()]
    if not asked or not all(prompt.strip() for prompt in asked):
        raise ConfigError(
            "There is no prompt, or an empty one", expected="text", action="give prompts as arguments or on the standard input"
        )
    at_hand = read_tools(tools) if tools is not None else None
    model = load_model(
        path, base_model=base_model, dtype=dtype, trust_remote_code=trust_remote_code, chat_template=chat_template, dial=dial
    )
    tokenizer = model.tokenizer
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    if handoff is not None:
        options["handoff"] = handoff
    if seed is not None:
        torch.manual_seed(seed)
    for prompt in asked:
        turns = opened([{"role": "user", "content": prompt}], system)
        batch: dict[str, Any] = left_pad([encode_prompt(tokenizer, offered(turns, at_hand))], 0, model.device)
        output = model.generate(**batch, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **sampling, **options)
        reply = str(tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
        score = float(model.prompt_scores[0]) if model.prompt_scores is not None else None
        if as_json:
            typer.echo(json.dumps({"prompt": prompt, "reply": reply, "score": score}, ensure_ascii=False))
        else:
            typer.echo(f"> {prompt}\n{reply}\n[score {score:.2f}]\n" if score is not None else f"> {prompt}\n{reply}\n")
