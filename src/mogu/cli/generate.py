"""`mogu generate`: replies to prompts from the command line or the standard input, as text or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mogu.cli._options import (
    AnswerMarker,
    BaseModel,
    ChatTemplate,
    Dial,
    Dtype,
    ModelPath,
    Quantization,
    RoutedTokens,
    StrictBase,
    TrustRemoteCode,
    routing_options,
)
from mogu.cli._shared import load_model
from mogu.cli._terminal import echo


def generate(
    path: ModelPath,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts to reply to. Without any, each line of the standard input is a prompt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = 256,
    dial: Dial = None,
    routed_tokens: RoutedTokens = None,
    answer_marker: AnswerMarker = None,
    handoff: Annotated[
        str | None,
        typer.Option(
            help="How the base model takes over after the routed tokens: 'recompute' reads prompt and opening again (as published), "
            "'continue' keeps the cache. Default: the model's own setting."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 decodes greedily.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Random seed for sampling. Default: a different one for each run.")] = None,
    system: Annotated[str | None, typer.Option(help="System message before each prompt.")] = None,
    tools: Annotated[Path | None, typer.Option(help="JSON file with a list of tools for the chat template to describe.")] = None,
    base_model: BaseModel = None,
    strict_base: StrictBase = False,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line: prompt, reply, score.")] = False,
) -> None:
    """Print a hardened model's replies to prompts, with the malicious score of each prompt (0 to 1).

    Example: mogu generate safer-model "How do I bake bread?" "How do I pick a lock?"
    """
    import torch

    from mogu.data import offered, opened, read_tools
    from mogu.errors import ConfigError
    from mogu.inference.padding import left_pad
    from mogu.inference.prompts import encode_prompt
    from mogu.inference.replies import decode_reply, ending_options

    options = routing_options(routed_tokens, answer_marker)
    instructions = prompts or [line.strip() for line in sys.stdin if line.strip()]
    if not instructions or not all(instruction.strip() for instruction in instructions):
        raise ConfigError(
            "There is no prompt, or an empty one", expected="text", action="give prompts as arguments or on the standard input"
        )
    tool_list = read_tools(tools) if tools is not None else None
    model = load_model(
        path,
        base_model=base_model,
        strict_base=strict_base,
        dtype=dtype,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        chat_template=chat_template,
        dial=dial,
    )
    tokenizer = model.tokenizer
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    if handoff is not None:
        options["handoff"] = handoff
    if seed is not None:
        torch.manual_seed(seed)
    ending = ending_options(model, tokenizer)
    for instruction in instructions:
        turns = opened([{"role": "user", "content": instruction}], system)
        batch: dict[str, Any] = left_pad([encode_prompt(tokenizer, offered(turns, tool_list))], 0, model.device)
        output = model.generate(**batch, max_new_tokens=max_new_tokens, **ending, **sampling, **options)
        reply = decode_reply(tokenizer, output[0, batch["input_ids"].shape[1] :].tolist()).strip()
        score = float(model.prompt_scores[0]) if model.prompt_scores is not None else None
        if as_json:
            echo(json.dumps({"prompt": instruction, "reply": reply, "score": score}, ensure_ascii=False))
        else:
            echo(f"> {instruction}\n{reply}\n" + (f"[score {score:.2f}]\n" if score is not None else ""))
