"""HDF5 in the layouts of SPICE, MACE and mlip, opened with care."""
