"""Experiments behind the tables of the docs that no `mogu` command makes; each file says how to run it."""
