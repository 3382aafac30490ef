"""Weights in, weights out: engines compiled where the GPU is (plan, run), and the description of those compiled by hand."""
