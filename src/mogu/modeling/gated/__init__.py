"""MoGU with a prompt gate: one decision a request, experts that are on only where it asks for them, an ear on the answer.

The published method's routers weigh two responders at every layer and token. Here one linear gate hears the whole prompt; what it finds
benign runs the base model bit for bit.
"""
