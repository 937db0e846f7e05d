"""Measure the CPU time that Inspect adds to a sample: the lab's test prompts through `inspect_ai.eval` and directly, in equal batches.

python -m benchmarks.inspect_overhead
"""

from __future__ import annotations

import tempfile
import time

from inspect_ai import eval as inspect_eval

from mogu.defenses import make_defense
from mogu.evaluation.inspect.model_pool import LoadOptions, shared_subject
from mogu.inference.replies import ReplySettings
from mogu.lab import build_base, judge, prompts
from mogu.lab.inspect_task import lab
from mogu.lab.measure import MAX_NEW_TOKENS

BATCH = 32
LEAN = {"score_display": False, "log_realtime": False, "log_buffer": 1000, "max_connections": 2 * BATCH}


def main() -> None:
    asked, base = prompts("test"), str(build_base())
    direct, verdicts = directly(base)
    print(f"{len(asked)} samples, batches of {BATCH}: {direct:.2f} s of CPU time without Inspect")
    for name, options in (("Inspect's defaults", {}), ("lean settings", LEAN)):
        with tempfile.TemporaryDirectory() as logs:
            started = time.process_time()
            [log] = inspect_eval(lab("test"), model=f"mogu/{base}", log_dir=logs, display="none", **options)
            seconds = time.process_time() - started
            # Inspect reads the samples only when they are accessed.
            same = sum(sample.scores["lab_verdict"].value == verdicts[sample.id] for sample in log.samples)
        print(f"{name}: {seconds:.2f} s, {(seconds - direct) / len(asked) * 1e3:.1f} ms a sample more; {same} verdicts are the same")


def directly(base: str) -> tuple[float, dict[str, str]]:
    """Return the CPU seconds of answering all prompts in batches for the second time, and their verdicts."""
    asked = prompts("test")
    defense = make_defense("none", shared_subject(base, LoadOptions()).subject)
    for _ in range(2):
        started, verdicts = time.process_time(), {}
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            replies = defense.reply([[{"role": "user", "content": one.instruction}] for one in batch], ReplySettings(MAX_NEW_TOKENS))
            verdicts |= {one.id: judge(one, reply.text) for one, reply in zip(batch, replies, strict=True)}
    return time.process_time() - started, verdicts


if __name__ == "__main__":
    main()
