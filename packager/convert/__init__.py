"""Weights in, weights out: so far the description of engines that were compiled by hand (describe)."""
