"""What generated crystals are worth: validity, coverage, distributions, matches, uniqueness and novelty."""
