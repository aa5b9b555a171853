"""Crystal models measured: structure prediction, generation, numbers of steps, speed and memory.

    python train/crystals.py perov_5      match rates of held-out crystals against the number of steps, and baselines
    python train/crystals.py carbon_24    generation: validity, coverage, distributions; guidance by the density
    python train/crystals.py mp_20        both, with a part of MP-20
    python train/crystals.py steps        Perov-5: trained for several numbers of steps at once against one number
    python train/crystals.py losses       Perov-5: other losses and flows, trained as long
    python train/crystals.py networks     Perov-5: other networks, trained for 100 epochs or as long
    python train/crystals.py speed        Perov-5: crystals per second, and memory of a generation to files

    [--runs DIR] [--out FILE] [--model FILE] [--samples N] [--workers 2] [--seeds 0] [--set KEY=VALUE ...]

The recipe ``crystals_NAME.yaml`` is trained unless a model is given or there. What is finished is not repeated, and
FILE (.json, with .md and .png beside it) is written after each measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("perov_5", "carbon_24", "mp_20", "steps", "losses", "networks", "speed")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("command", choices=COMMANDS)
    found.add_argument("--runs", type=Path, default=Path("runs/crystals"), help="models and crystals")
    found.add_argument("--out", type=Path, help="results; by default in the folder of the runs")
    found.add_argument("--model", type=Path, help="measure this model of the recipe instead of training one")
    found.add_argument(
        "--samples", type=int, help="predict so many test crystals (all), generate as many (1000)"
    )
    found.add_argument("--workers", type=int, default=2, help="processes that judge crystals")
    found.add_argument(
        "--timeout", type=float, default=60.0, help="seconds for one crystal; 0: no limit, no processes"
    )
    found.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="of the trainings of `steps`, `losses` and `networks`",
    )
    found.add_argument("--set", dest="changes", nargs="*", default=[], metavar="KEY=VALUE")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_args(arguments)
    # not above: every process that judges crystals imports this file
    from crystals_measured import measure

    measure(**vars(options))


if __name__ == "__main__":
    main()
