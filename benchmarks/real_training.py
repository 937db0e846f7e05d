"""Compare records per second in training a real chat model: `mogu train`'s own loop in several settings, and the published procedure.

All ways run at once in one thread and change places after every optimizer step, so that each round of turns sees the same machine. Ours
is the loop of `mogu train` itself, with everything that it does around a step; the published one is a bare loop. The first turn of each
way, in which files are written and things are tried out, counts apart.
"""

from __future__ import annotations

...
