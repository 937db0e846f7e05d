"""The Inspect model provider `mogu`: a MoGU model, or a base model behind any defense, for every Inspect evaluation.

    inspect eval TASK --model mogu/PATH [-M defense=self_reminder] [-M dial=1.5]

Knows Inspect's messages, settings and outputs; knows nothing of tasks, nor of what a defense does.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from inspect_ai._util.registry import RegistryInfo, set_registry_info
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from mogu.defenses import Defense, make_defense
from mogu.errors import ConfigError
from mogu.evaluation.inspect.batching import Answered, Batcher, Request
from mogu.evaluation.inspect.errors import as_inspect_error
from mogu.evaluation.inspect.model_pool import LoadedTarget, LoadOptions, shared_target
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings

BATCH_SIZE = 32
MAX_TOKENS = 2048
"""Tokens of a reply where the task names no limit: what Inspect's own provider for local models allows."""

# Settings that a reply depends on, and settings that Inspect handles itself. Any other would have no effect, so it is refused.
_HEEDED = {"max_tokens", "temperature", "top_p", "top_k", "stop_seqs", "seed"}
_INSPECTS_OWN = {
    "adaptive_connections",
    "attempt_timeout",
    "cache",
    "cache_prompt",
    "fail_on_refusal",
    "internal_tools",
    "max_connections",
    "max_retries",
    "max_tool_output",
    "parallel_tool_calls",
    "reasoning_history",
    "system_message",
    "timeout",
}
_NEUTRAL: dict[str, Any] = {
    "best_of": 1,
    "batch": False,
    "frequency_penalty": 0,
    "logprobs": False,
    "num_choices": 1,
    "presence_penalty": 0,
}


class MoguAPI(ModelAPI):
    """A model under test behind one defense.

    Args:
        model_name: folder of a saved MoGU model, folder of a base model, or hub id of one.
        base_url: not supported.
        api_key: not used.
        config: Inspect's settings.
        defense: name of a defense; by default ``mogu`` for a saved MoGU model, else ``none``.
        batch_size: conversations at a time, at most.
        options: fields of :class:`~mogu.evaluation.inspect.model_pool.LoadOptions`, and options of the defense.

    Raises:
        ConfigError: an unknown defense or option.
        ModelFileError: the model is missing or broken.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  Inspect's signature; never changed
        *,
        defense: str | None = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        with as_inspect_error():
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ConfigError(f"batch_size is {batch_size!r}", expected="a whole number from 1", action="correct it")
            if base_url is not None:
                raise ConfigError(f"A base URL was given ({base_url})", expected="none: the model runs here", action="leave it out")
            loading = {field.name: options.pop(field.name) for field in fields(LoadOptions) if field.name in options}
            loaded = shared_target(model_name, LoadOptions(**loading))
            name = defense or ("none" if loaded.target.mogu is None else "mogu")
            self._ready: tuple[LoadedTarget, Defense] | None = loaded, make_defense(name, loaded.target, **options)
        self.batch_size = batch_size
        _introduce(model_name)
        self._pool = f"{model_name} {name} {sorted(options.items())}"

    @classmethod
    def around(cls, defense: Defense, batcher: Batcher, *, name: str, batch_size: int = BATCH_SIZE) -> Model:
        """Make a prepared defense a model for ``inspect_ai.eval``.

        Args:
            defense: the defense.
            batcher: the queue of its target, shared by all defenses on it, so that no two batches run on it at once.
            name: what logs call it.
            batch_size: conversations at a time, at most.
        """
        api = cls.__new__(cls)
        ModelAPI.__init__(api, model_name=name)
        _introduce(name)
        set_registry_info(api, RegistryInfo(type="modelapi", name="mogu"))  # as the registered constructor would
        api._ready, api._pool, api.batch_size = (LoadedTarget(defense.target, batcher), defense), name, batch_size
        return Model(api, GenerateConfig())

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Generate one reply; concurrent calls are answered in batches.

        Raises:
            ConfigError: the request has tools, pictures or a setting that has no effect here.
        """
        if tools:
            raise ConfigError(
                f"The task gives the model tools ({', '.join(tool.name for tool in tools)})",
                expected="a task without tools: the mogu provider answers with text alone",
                action="choose another task, or a provider that calls tools",
            )
        if self._ready is None:
            raise ConfigError("The model was closed", expected="an open one", action="get it from get_model again")
        loaded, defense = self._ready
        request = Request(defense, _conversation(input), _settings(config), self.batch_size)
        return self._output(request, await loaded.batcher.answer(request))

    def _output(self, request: Request, answered: Answered) -> ModelOutput:
        defense, reply = request.defense, answered.reply
        prompt = len(defense.target.encode(request.conversation))
        cost = {"passes": reply.cost.passes, "tokens": reply.cost.tokens, "seconds": reply.cost.seconds}
        message = ChatMessageAssistant(content=reply.text, model=self.model_name, source="generate")
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason="stop" if reply.finished else "max_tokens")],
            usage=ModelUsage(input_tokens=prompt, output_tokens=reply.tokens, total_tokens=prompt + reply.tokens),
            time=answered.seconds,
            metadata={"defense": defense.name, "intervened": reply.intervened, **reply.details, "cost": cost, "batch": answered.batch},
        )

    def close(self) -> None:
        """Release the model; its weights are freed when nobody else holds them."""
        self._ready = None

    def max_tokens(self) -> int | None:
        """Tokens of a reply where the task names no limit."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Requests at a time: the batch that is running, and the next one."""
        return 2 * self.batch_size

    def connection_key(self) -> str:
        """Each defense has its own pool of connections; otherwise samples of one would wait for those of another."""
        return self._pool

    def collapse_user_messages(self) -> bool:
        """Most chat templates require user and assistant to alternate."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Most chat templates require user and assistant to alternate."""
        return True


def _introduce(name: str) -> None:
    """Make a model known to Inspect, which would otherwise load it a second time, by its name alone, to look it up."""
    set_model_info(f"mogu/{name}", ModelInfo())


def _conversation(messages: list[ChatMessage]) -> Conversation:
    conversation = []
    for message in messages:
        # Defenses take the last message to be the user's, so these cannot be passed on; without them it would be another prompt.
        if message.role == "tool" or (isinstance(message, ChatMessageAssistant) and message.tool_calls):
            raise ConfigError(
                "A conversation contains a tool call or a tool's answer",
                expected="system, user and assistant messages of text",
                action="choose a task without tools",
            )
        others = {part.type for part in message.content_list} - {"text", "reasoning"}
        if others:
            raise ConfigError(
                f"A {message.role} message contains {', '.join(sorted(others))}", expected="text only", action="choose a task of plain text"
            )
        conversation.append({"role": message.role, "content": message.text})
    return conversation


def _settings(config: GenerateConfig) -> ReplySettings:
    given = config.model_dump(exclude_none=True)
    unheeded = sorted(
        name for name, value in given.items() if name not in _HEEDED | _INSPECTS_OWN and (name not in _NEUTRAL or value != _NEUTRAL[name])
    )
    if unheeded:
        raise ConfigError(
            f"The mogu provider was given {', '.join(f'{name}={given[name]!r}' for name in unheeded)}",
            expected=f"settings among {', '.join(sorted(_HEEDED))}",
            action="leave it out: it would have no effect",
        )
    return ReplySettings(
        max_new_tokens=MAX_TOKENS if config.max_tokens is None else config.max_tokens,
        temperature=config.temperature or 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k,
        stop=tuple(config.stop_seqs or ()),
        seed=config.seed,
    )
