"""MoGU: two LoRA responders and a router inside each attention layer make a chat model refuse malicious requests and answer the rest."""
