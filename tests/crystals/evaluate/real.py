"""Some rows of a real set: reading all of it takes too long for a test."""

import csv
import gzip
from itertools import islice

from atomml.datasets import load_frames


def real_store(path, tmp_path, *, rows=100, keep=lambda row: True):
    """The first rows of a compressed CSV file that are kept."""
    csv.field_size_limit(1 << 24)
    with gzip.open(path, "rt", newline="") as file:
        reader = csv.DictReader(file)
        kept = list(islice(filter(keep, reader), rows))
        small = tmp_path / path.name.removesuffix(".gz")
        with small.open("w", newline="") as out:
            writer = csv.DictWriter(out, reader.fieldnames)
            writer.writeheader()
            writer.writerows(kept)
    return load_frames(small, require_energy=False)
