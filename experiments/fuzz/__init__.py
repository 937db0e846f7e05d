"""Hostile files for every reader: what comes of them, and how long and how much memory it takes.

    python -m experiments.fuzz --inputs 100000 --out fuzz.json

Each input is a good file with a few things wrong with it. What is counted is how a reader ends: with an error of ours, well, with any
other exception, after too long, or with too much memory; and whether it wrote outside its folder, ran a program or used the network.
"""
