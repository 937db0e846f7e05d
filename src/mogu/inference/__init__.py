"""From conversations to tokens, and from a model that generates to replies. Knows nothing of MoGU: any causal language model will do."""
