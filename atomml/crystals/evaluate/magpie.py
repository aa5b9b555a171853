"""Standard deviations of Magpie features over inorganic compounds: the unit of distances between compositions."""

from __future__ import annotations

__all__ = ["MP20_DEVIATIONS"]

# fmt: off
MP20_DEVIATIONS = (
    15.97, 20.3, 20.38, 16.78, 7.879, 22.05, 22.46, 12.07, 24.71, 14.0, 9.964, 27.47,
    38.71, 54.51, 53.4, 42.71, 20.59, 55.65, 556.8, 746.5, 771.0, 599.7, 280.0, 798.0,
    3.201, 3.055, 4.034, 2.996, 1.75, 5.64, 1.191, 0.9101, 1.228, 1.02, 0.4867, 1.424,
    31.89, 28.94, 38.7, 26.4, 15.3, 40.03, 0.3506, 0.697, 0.7669, 0.5079, 0.3205, 0.8818,
    0.5847, 0.08925, 0.5807, 0.2705, 0.2444, 0.488, 0.4387, 1.738, 1.716, 1.205, 0.7659, 1.981,
    2.127, 3.503, 3.676, 2.877, 1.592, 4.288, 1.575, 6.22, 6.11, 3.112, 2.421, 3.86,
    3.636, 6.775, 6.54, 4.277, 2.504, 5.762, 0.07435, 0.496, 0.4953, 0.2224, 0.2045, 0.2986,
    0.3776, 1.764, 1.751, 0.9107, 0.7302, 1.463, 0.7751, 3.688, 3.616, 1.672, 1.407, 2.039,
    0.3351, 4.015, 3.992, 1.454, 1.548, 1.643, 1.476, 4.732, 4.509, 2.204, 1.696, 2.603,
    6.344, 19.55, 19.28, 8.851, 6.666, 10.5, 0.2395, 1.716, 1.693, 0.8613, 0.7169, 1.222,
    0.03693, 0.575, 0.573, 0.2451, 0.2183, 0.3015, 81.05, 23.01, 81.45, 54.47, 35.87, 87.93,
)
# fmt: on
"""Of the 132 features of matminer's ``ElementProperty.from_preset("magpie")`` (22 properties, each with minimum,
maximum, range, mean, mean absolute deviation and mode over the atoms), over 9,713 compositions of MP-20: the binary
and ternary crystals of its validation set and the first 2,573 rows of its training set. With matminer 0.10.1."""
