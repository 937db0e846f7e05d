"""The lab: a small chat model and its harmless world, built from a recipe, to try everything in."""
