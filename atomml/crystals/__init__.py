"""Crystals: generation and structure prediction by periodic Bayesian flow, and what the results are worth."""
