"""Ray Serve LLM's server, with vLLM's plugins in its process.

Ray has vLLM's configuration made in a process of its own, which loads the plugins; the one that takes requests would have none.
Knows Ray and vLLM's plugins; knows nothing of what they do. Needs Ray, and is imported by its workers alone.
"""

from __future__ import annotations

from ray.serve.llm.deployment import LLMServer


class MoguServer(LLMServer):
    """The value of ``server_cls`` in Ray's ``LLMConfig``."""

    async def start(self) -> None:
        """Start the engine, after the plugins that extend it."""
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        await super().start()
