"""The loop of lithium halides with several ways to choose and several seeds: error at 1000 K against labels spent.

    python train/active_li_halide.py [--seeds 0 1 2] [--methods random force_std bald_force llpr_maxdet]
        [--runs DIR] [--out FILE] [--set KEY=VALUE ...]

``active_li_halide_start.yaml`` and ``active_li_halide_test.yaml`` make 40 frames at 300 K to begin with and 160 at
1000 K, of other trajectories, to test on, both labelled by CHGNet r2SCAN, the oracle of the loop too; then
``active_li_halide.yaml`` runs for every method and seed. A seed is that of weights, dynamics and choices; the frames
of the beginning and of the test are always the same. Everything that is finished is not repeated; FILE (.json, with
.md and .png beside it) is written after every loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learning_curves import write_results
from rich.console import Console

from atomml.active.config import load_active_config
from atomml.active.loop import run_active
from atomml.bench import machine
from atomml.cli.train import parse_settings
from atomml.config import load_config
from atomml.datasets import FrameStore
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.run import run_sampling

HERE = Path(__file__).parent
METHODS = ("random", "force_std", "bald_force", "llpr_maxdet")
MEASURES = {
    "forces": "forces RMSE at 1000 K (meV/Å)",
    "energy": "energy RMSE at 1000 K (meV/atom)",
    "fresh": "forces RMSE of new labels before they are learnt (meV/Å)",
}


def frames(part: str, runs: Path) -> Path:
    """The labelled frames of a part, made unless they are there."""
    folder = runs / part
    if not (folder / "frames" / "header.json").exists():
        config = load_config(SampleConfig, HERE / f"active_li_halide_{part}.yaml", {"run_dir": str(folder)})
        run_sampling(config, base=HERE, resume=True)
    return (folder / "frames").resolve()


def loop(
    method: str, seed: int, data: Mapping[str, Path], runs: Path, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """A finished loop."""
    overrides = {
        **changes,
        "run_dir": str(runs / f"{method}_{seed}"),
        "seed": seed,
        "start.labelled": [str(data["start"])],
        "start.test": [str(data["test"])],
        "select.method": method,
    }
    return run_active(load_active_config(HERE / "active_li_halide.yaml", overrides), resume=True)


def points_of(
    method: str, seed: int, rows: Sequence[Mapping[str, Any]], start: int
) -> Iterator[dict[str, Any]]:
    """Errors after every round, with the labels that were spent until then."""
    labelled = start
    for row in rows:
        labelled += (row["selected"] or 0) if row["labelled"] is not None else 0
        if row["test_forces_rmse"] is None:
            continue
        fresh = row["fresh_forces_rmse"]
        yield {
            "method": method,
            "seed": seed,
            "labelled": labelled,
            "forces": 1e3 * row["test_forces_rmse"],
            "energy": 1e3 * row["test_energy_per_atom_rmse"],
            "fresh": float("nan") if fresh is None else 1e3 * fresh,
            "test_z_rms": row["test_z_rms"],
            "seconds": row["seconds"],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--runs", type=Path, default=Path("runs/active_li_halide"))
    parser.add_argument("--out", type=Path, default=Path("runs/active_li_halide/active_li_halide.json"))
    parser.add_argument("--set", dest="changes", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    data = {part: frames(part, options.runs) for part in ("start", "test")}
    content: dict[str, Any] = {
        "machine": machine.facts(1),
        "data": {part: FrameStore.open(path).fingerprint() for part, path in data.items()},
        "changes": options.changes,
        "points": [],
    }
    start, console = len(FrameStore.open(data["start"])), Console()
    for seed in options.seeds:
        for method in options.methods:
            done = loop(method, seed, data, options.runs, parse_settings(options.changes))
            content["points"] += points_of(method, seed, done["rounds"], start)
            write_results(content, MEASURES, options.out)
            minutes = sum(row["seconds"] for row in done["rounds"]) / 60
            last = content["points"][-1]
            console.print(
                f"seed {seed}, {method}: {last['forces']:.0f} meV/Å with {last['labelled']} labels, "
                f"{minutes:.0f} min, {done['reason']}",
                highlight=False,
            )


if __name__ == "__main__":
    main()
