"""Training a gated model: the gate is fitted in seconds, responders are trained as LoRAs, thresholds are chosen on the dev records."""
