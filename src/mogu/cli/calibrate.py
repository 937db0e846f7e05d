"""`mogu calibrate`: choose the dial on held-out records, and show what it gains.

Knows the command line; the work is done in :mod:`mogu.evaluation.calibration`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import BaseModel, ChatTemplate, Dtype, ModelPath, Quantization, TrustRemoteCode
from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.evaluation.calibration import Calibration


def calibrate(
    path: ModelPath,
    dev: Annotated[
        str | None, typer.Option(help="Held-out records, a .jsonl file as `mogu data build` writes it, or 'starter', the starter set's.")
    ] = None,
    benign: Annotated[
        Path | None, typer.Option(help="Benign requests without labels, one a line or a table; for a model with a gate, instead of --dev.")
    ] = None,
    max_benign_refusal: Annotated[float, typer.Option(help="Share of benign records that may be refused, and of borderline ones.")] = 0.01,
    write: Annotated[bool, typer.Option("--write", help="Save dial or threshold in the model's mogu_config.json and on its card.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply; a refusal shows in its first sentence.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Replies at a time, at most; fewer where memory is short.")] = 32,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Find the dial, or a gate's threshold, at which most malicious requests are refused while few enough benign ones are.

    The model replies to the records at some twenty dials. Of those that keep benign refusals within the bound, the one that refuses
    most malicious requests is chosen. Use records that the model was not trained on, and measure on others: results on the records that
    a dial was chosen on are too favorable.

    With --benign, a gate's threshold is chosen instead, from requests as they come in, which nobody has to label: of requests like these,
    no more than the bound are refused, with 95 % confidence. That takes at least 299 requests for a bound of 1 %, and no replies.

    Examples:

    mogu calibrate safer-qwen --dev data/pairs.dev.jsonl --max-benign-refusal 0.01 --write

    mogu calibrate smollm2-safer --benign traffic.txt --max-benign-refusal 0.01 --write
    """
    from mogu.cli._shared import load_model, show_log
    from mogu.data import read_records
    from mogu.data.starter import STARTER, dev_pairs
    from mogu.errors import ConfigError
    from mogu.evaluation.calibration import calibrate as run
    from mogu.evaluation.calibration import write_calibration

    folder = Path(path).expanduser()
    if (dev is None) == (benign is None):
        raise ConfigError(
            "Neither --dev nor --benign was given" if dev is None else "Both --dev and --benign were given",
            expected="one of the two",
            action="--dev takes labeled records, --benign requests as they come in",
        )
    if write and not folder.is_dir():
        raise ConfigError(f"--write was given, and {path} is no folder here", expected="a folder", action="download the model first")
    options: Any = {
        "base_model": base_model,
        "dtype": dtype,
        "quantization": quantization,
        "trust_remote_code": trust_remote_code,
        "chat_template": chat_template,
    }
    if benign is not None:
        _promise(path, folder, benign, max_benign_refusal, options, batch_size=batch_size, write=write, as_json=as_json)
        return
    assert dev is not None  # one of the two was given
    records = dev_pairs() if dev == STARTER else read_records(Path(dev))
    model = load_model(path, **options, dial=None)
    console = Console(stderr=True, highlight=False)
    with show_log(console):
        calibration = run(
            model,
            records,
            max_benign_refusal=max_benign_refusal,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    if write:
        write_calibration(folder, calibration)
    if as_json:
        echo(json.dumps({**calibration.as_json(), "written": write}))
        return
    _show(calibration, path, write=write)


def _promise(
    path: str, folder: Path, benign: Path, bound: float, options: dict[str, Any], *, batch_size: int, write: bool, as_json: bool
) -> None:
    from mogu.cli._shared import load_model
    from mogu.data import read_instructions
    from mogu.errors import ConfigError
    from mogu.evaluation.false_alarms import CONFIDENCE, allowed_alarms, promised_threshold, write_promise
    from mogu.modeling.gated.model import GatedModel

    requests = [[{"role": "user", "content": instruction.text}] for instruction in read_instructions(benign)]
    allowed_alarms(len(requests), bound, CONFIDENCE)  # too few are refused before the model is loaded
    model = load_model(path, **options, dial=None)
    if not isinstance(model, GatedModel):
        raise ConfigError(
            f"{path} has no gate", expected="a model of method gated", action="choose the dial of this one with --dev, on labeled records"
        )
    promise = promised_threshold(model, requests, bound=bound, batch_size=batch_size)
    if write:
        write_promise(folder, promise, source=benign.name)
    if as_json:
        echo(json.dumps({**promise.as_json(), "written": write}))
        return
    console = Console(highlight=False)
    console.print(
        f"unwill answers from {promise.threshold:.4f} on (before: {promise.before:.4f}): {promise.alarms} of {promise.requests} requests "
        f"reach it ({promise.alarms_before} before). With {promise.confidence:.0%} confidence, at most {promise.bound:.2%} of requests "
        "like these are refused.",
        soft_wrap=True,
    )
    written = f"Written: {escape(path)} has the new threshold." if write else "Nothing was written: add --write to keep it."
    console.print(written, soft_wrap=True)


def _show(calibration: Calibration, path: str, *, write: bool) -> None:
    console = Console(highlight=False)
    before, after = calibration.before, calibration.chosen
    table = Table("95 % intervals", f"dial {before.dial:+g}, before", f"dial {after.dial:+g}, chosen")
    rows = before.rows()
    for name, chosen in after.rows().items():
        shares = (rows[name], chosen)
        table.add_row(f"{name} refused", *(f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}, n {share.n})" for share in shares))
    console.print(table)
    bought = calibration.bought
    console.print(
        f"It buys {100 * bought.value:+.1f} points of malicious requests refused ({100 * bought.low:+.1f} to {100 * bought.high:+.1f})."
    )
    if after.dial == before.dial:
        console.print("The model has the best dial already.")
    elif write:
        console.print(f"Written: {escape(path)} now has the dial {after.dial:+g}.", soft_wrap=True)
    else:
        console.print("Nothing was written: add --write to keep it, or pass --dial where the model is used.")
