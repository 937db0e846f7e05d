"""Ray Serve LLM's server, with vLLM's plugins loaded in its own process.

Ray creates vLLM's configuration in a separate process, which loads the plugins; the process that serves requests would not.
Knows Ray and vLLM's plugins; knows nothing of what they do. Needs Ray, and only Ray's workers import it.
"""

from __future__ import annotations

from ray.serve.llm.deployment import LLMServer


class MoguServer(LLMServer):
    """Server class for ``server_cls`` in Ray's ``LLMConfig``."""

    async def start(self) -> None:
        """Load vLLM's plugins, then start the engine."""
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        await super().start()  # type: ignore[no-untyped-call]
