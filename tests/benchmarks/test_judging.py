"""Replies of both lengths are timed, each as often as asked."""

from __future__ import annotations

from typing import Any

from benchmarks.judging import long_replies


def test_short_and_long_replies_are_timed(quick: dict[str, Any]) -> None:
    assert {case: len(seconds) for case, seconds in quick["judging"].items()} == {"as written": 4, "200 words": 4}
    assert [one["at_most"] for one in quick["findings"] if one["what"] == "refusal classifier, a reply"] == [2.0, 2.0]


def test_a_long_reply_begins_as_it_was_written() -> None:
    first, second = "I cannot do that.", "One two three four five."
    assert long_replies([first, second], 5) == [f"{first}\n\n{second}", second]
    assert long_replies([first, second], 10) == [f"{first}\n\n{second}\n\n{first}", f"{second}\n\n{first}\n\n{second}"]
