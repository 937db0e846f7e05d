"""`mogu calibrate`: choose the dial on held-out records, and show what it gains.

Knows the command line; the work is done in :mod:`mogu.evaluation.calibration`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import BaseModel, ChatTemplate, Dtype, ModelPath, TrustRemoteCode

if TYPE_CHECKING:
    from mogu.evaluation.calibration import Calibration


def calibrate(
    path: ModelPath,
    dev: Annotated[
        str, typer.Option(help="Held-out records, a .jsonl file as `mogu data build` writes it, or 'starter', the starter set's.")
    ],
    max_benign_refusal: Annotated[float, typer.Option(help="Share of benign records that may be refused, and of borderline ones.")] = 0.01,
    write: Annotated[bool, typer.Option("--write", help="Save the dial in the model's mogu_config.json and on its card.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply; a refusal shows in its first sentence.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Replies at a time, at most; fewer where memory is short.")] = 32,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Find the dial at which most malicious requests are refused while few enough benign ones are.

    The model replies to the records at some twenty dials. Of those that keep benign refusals within the bound, the one that refuses
    most malicious requests is chosen. Use records that the model was not trained on, and measure on others: results on the records that
    a dial was chosen on are too favorable.

    Example: mogu calibrate safer-qwen --dev data/pairs.dev.jsonl --max-benign-refusal 0.01 --write
    """
    from mogu.cli._shared import load_model, show_log
    from mogu.data import read_records
    from mogu.data.starter import STARTER, dev_pairs
    from mogu.errors import ConfigError
    from mogu.evaluation.calibration import calibrate as run
    from mogu.evaluation.calibration import write_calibration

    folder = Path(path).expanduser()
    if write and not folder.is_dir():
        raise ConfigError(f"--write was given, and {path} is no folder here", expected="a folder", action="download the model first")
    records = dev_pairs() if dev == STARTER else read_records(Path(dev))
    model = load_model(
        path, base_model=base_model, dtype=dtype, trust_remote_code=trust_remote_code, chat_template=chat_template, dial=None
    )
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
        typer.echo(json.dumps({**calibration.as_json(), "written": write}))
        return
    _show(calibration, path, write=write)


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
