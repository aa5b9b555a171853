"""Measurements of speed: kernels and whole potentials, beside other libraries, in interleaved runs."""
