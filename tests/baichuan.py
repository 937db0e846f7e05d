"""The modeling code of a Baichuan-like model.

Baichuan 2 lives in its own repositories, not in transformers: this keeps its names (W_pack, o_proj) and needs remote code as it does.
"""

BAICHUAN = """
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


class BaichuanConfig(PreTrainedConfig):
    model_type = "baichuan"

    def __init__(self, vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x, mask, cache):
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in self.W_pack(x).chunk(3, -1))
        k, v = cache.update(k, v, self.layer)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(attended.transpose(1, 2).reshape(batch, tokens, width))


class DecoderLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = nn.Sequential(nn.Linear(config.hidden_size, 48), nn.SiLU(), nn.Linear(48, config.hidden_size))

    def forward(self, x, mask, cache):
        x = x + self.self_attn(nn.functional.layer_norm(x, x.shape[-1:]), mask, cache)
        return x + self.mlp(nn.functional.layer_norm(x, x.shape[-1:]))


class BaichuanModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))


class BaichuanForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = BaichuanConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.3)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **kwargs):
        cache = DynamicCache() if past_key_values is None else past_key_values
        past, tokens = cache.get_seq_length(), input_ids.shape[1]
        slots = torch.arange(past + tokens)
        seen = slots[None, :] <= slots[past:, None]
        distance = (slots[None, :] - slots[past:, None]).to(self.lm_head.weight.dtype)
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None, :].bool() | (slots[None, :] == slots[past:, None])
        mask = (0.1 * distance).masked_fill(~seen, float("-inf"))
        x = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x, mask, cache)
        return CausalLMOutputWithPast(logits=self.lm_head(x), past_key_values=cache)
"""
