"""`atomml bench kernels`, `atomml bench potential` and `atomml bench data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

Threads = Annotated[int, typer.Option(help="Of every process.")]
Repeats = Annotated[int, typer.Option(help="Interleaved rounds; ratios are formed within a round.")]
Slot = Annotated[float, typer.Option(help="Seconds that one measurement lasts at least.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--peers-dir", metavar="DIR", help="Environments of the peers; ~/.cache/atomml/peers by default."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write JSON, CSV and figures here.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]


def register(app: typer.Typer) -> None:
    """Add the ``bench`` commands to ``app``."""
    bench = typer.Typer(
        help="Measure speed beside other libraries, in interleaved runs.", no_args_is_help=True
    )
    bench.command("kernels")(_kernels)
    bench.command("potential")(_potential)
    bench.command("data")(_data)
    app.add_typer(bench, name="bench")


def _kernels(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    lmax: Annotated[str, typer.Option(help="Degrees L, separated by commas.")] = "1,2,3",
    channels: Annotated[int, typer.Option(help="Channels of every degree.")] = 64,
    edges: Annotated[int, typer.Option(help="Edges of the random graph.")] = 9996,
    degree: Annotated[int, typer.Option(help="Neighbours of each atom.")] = 28,
    dtype: Annotated[str, typer.Option(help="float32, float64 or, on a GPU, bfloat16.")] = "float32",
    peers: Annotated[str, typer.Option(help='Beside e3nn: "cuequivariance" or "".')] = "cuequivariance",
    threads: Threads = 1,
    repeats: Repeats = 9,
    slot: Slot = 0.2,
    peers_dir: Folder = None,
    out: Out = None,
    json: Json = None,
) -> None:
    """Time the convolution of the networks (gather, tensor product, scatter) against e3nn and cuEquivariance.

    Our kernel with one radial weight per path is compared with the same function of the other libraries. The
    factorised convolution, which has fewer radial weights, is compared with our own kernel, and with e3nn for
    orientation only. Operations per second and both fractions of the floor are stated.
    """
    from atomml.bench.commands import kernels_command
    from atomml.bench.settings import KernelSettings

    settings = KernelSettings(
        lmax=_numbers(lmax, "--lmax"),
        channels=channels,
        edges=edges,
        degree=degree,
        device=device,
        dtype=dtype,
        threads=threads,
        rounds=repeats,
        slot=slot,
        peers=_words(peers),
    )
    kernels_command(settings, folder=peers_dir, out=out, json_file=json)


def _potential(
    peers: Annotated[
        str, typer.Option(help="mace, nequip, both separated by a comma, or nothing.")
    ] = "mace,nequip",
    structures: Annotated[
        str, typer.Option(help="si64, molecule, water, siN (about N atoms); separated by commas.")
    ] = "si64,molecule,water",
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="A model file to measure as well.")
    ] = None,
    training: Annotated[bool, typer.Option(help="Also a training step of 8 × 27 atoms.")] = True,
    dynamics: Annotated[bool, typer.Option(help="Also dynamics of the first structure through ASE.")] = True,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also against atoms, channels, L, neighbours and threads.")
    ] = False,
    sizes: Annotated[str, typer.Option(help="Numbers of atoms of --scaling.")] = "100,1000,10000,100000",
    threads: Threads = 1,
    repeats: Repeats = 9,
    slot: Slot = 0.3,
    peers_dir: Folder = None,
    out: Out = None,
    json: Json = None,
) -> None:
    """Time whole potentials: energy, forces and stress, training steps and dynamics, against MACE and NequIP.

    All have random weights and a cutoff of 5 Å. Each peer runs in an environment of its own, which is made when it
    is not there; one that cannot be installed is reported and left out.
    """
    from atomml.bench.commands import potential_command
    from atomml.bench.settings import PotentialSettings

    settings = PotentialSettings(
        peers=_words(peers),
        structures=_words(structures),
        threads=threads,
        rounds=repeats,
        slot=slot,
        model=model,
        training=training,
        dynamics=dynamics,
        scaling=scaling,
        sizes=_numbers(sizes, "--sizes"),
    )
    potential_command(settings, folder=peers_dir, out=out, json_file=json)


def _data(
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="FILE", help="Frames to use; the bundled sample by default."),
    ] = None,
    repeats: Repeats = 9,
    slot: Slot = 0.2,
    out: Out = None,
    json: Json = None,
) -> None:
    """Time the reading of a frame: native store, ASE, ase-db-backends (where installed), .aselmdb, PyG pickles."""
    from atomml.bench.commands import data_command

    data_command(source, rounds=repeats, slot=slot, out=out, json_file=json)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from atomml.errors import ConfigError

    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a list of whole numbers.", where=option, fix="for example 1,2,3"
        ) from None
