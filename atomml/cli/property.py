"""`atomml property`: eos, elastic, phonons, diffusion, arrhenius, rdf."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

Model = Annotated[
    str,
    typer.Argument(
        help='Model file, "demo", or a calculator: emt, lj, chgnet (chgnet:0.3.0), tblite.', metavar="MODEL"
    ),
]
Structure = Annotated[
    str, typer.Argument(help="Structure file; its last frame, or FILE@N.", metavar="STRUCTURE")
]
Run = Annotated[
    str, typer.Argument(help="Folder of `atomml md`, or a file with frames.", metavar="TRAJECTORY")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the JSON, CSV and PNG.")]
Relax = Annotated[bool, typer.Option("--relax/--no-relax", help="Relax positions and cell first.")]
Ions = Annotated[bool, typer.Option("--ions/--clamped", help="Relax positions in each strained cell.")]
Steps = Annotated[int, typer.Option(help="Most steps of a relaxation.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Dtype = Annotated[str, typer.Option(help="float32 or float64.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]
Interval = Annotated[
    float | None, typer.Option(help="Time between frames in fs, of files that do not say it.")
]
Temperature = Annotated[float | None, typer.Option(help="In K; by default the mean of the run.")]
Skip = Annotated[float, typer.Option(help="Leave out the first picoseconds.")]
Blocks = Annotated[int, typer.Option(help="Parts of the run whose scatter is the error, 3 at least.")]
Window = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Shortest and longest lag of the fit in ps; by default 1/5 and 1/2 of a block."),
]
Charge = Annotated[float | None, typer.Option(help="Of an ion, for the conductivity.")]
Wrapped = Annotated[
    bool | None,
    typer.Option("--wrapped/--unwrapped", help="Whether a file has atoms in the cell; found out by default."),
]


def register(app: typer.Typer) -> None:
    """Add the ``property`` commands to ``app``."""
    group = typer.Typer(
        help="Properties of materials: equation of state, elastic constants, phonons, diffusion, g(r).",
        no_args_is_help=True,
    )
    for name, command in (
        ("eos", _eos),
        ("elastic", _elastic),
        ("phonons", _phonons),
        ("diffusion", _diffusion),
        ("arrhenius", _arrhenius),
        ("rdf", _rdf),
    ):
        group.command(name)(command)
    app.add_typer(group, name="property")


def _eos(
    model: Model,
    structure: Structure,
    span: Annotated[float, typer.Option(help="Volumes from 1 − span to 1 + span.")] = 0.08,
    points: Annotated[int, typer.Option(help="Number of volumes.")] = 11,
    relax: Relax = True,
    ions: Ions = True,
    shape: Annotated[bool, typer.Option("--shape", help="Relax the shape at each volume too.")] = False,
    fmax: Annotated[float, typer.Option(help="Of the relaxations, eV/Å.")] = 1e-3,
    steps: Steps = 1000,
    out: Out = Path("eos"),
    device: Device = "cpu",
    dtype: Dtype = "float64",
    json: Json = None,
) -> None:
    """Energy against volume, fitted by Birch and Murnaghan: V0, B0, B0'."""
    from atomml.simulate.properties.command import crystal_command

    settings = {"span": span, "points": points, "relax": relax, "ions": ions, "shape": shape}
    settings |= {"fmax": fmax, "steps": steps}
    crystal_command(
        "eos", model, structure, out=out, device=device, dtype=dtype, json_file=json, settings=settings
    )


def _elastic(
    model: Model,
    structure: Structure,
    strain: Annotated[
        list[float] | None, typer.Option(help="Magnitude; repeatable; 0.0025 and 0.005 by default.")
    ] = None,
    relax: Relax = True,
    ions: Ions = True,
    fmax: Annotated[float, typer.Option(help="Of the relaxations, eV/Å.")] = 1e-4,
    steps: Steps = 1000,
    symprec: Annotated[float, typer.Option(help="Tolerance of the symmetry, Å.")] = 1e-3,
    out: Out = Path("elastic"),
    device: Device = "cpu",
    dtype: Dtype = "float64",
    json: Json = None,
) -> None:
    """Elastic constants from stress and strain, moduli of Voigt, Reuss and Hill, Born's criterion."""
    from atomml.simulate.properties.command import crystal_command

    settings: dict[str, Any] = {"strains": strain or [0.0025, 0.005], "relax": relax, "ions": ions}
    settings |= {"fmax": fmax, "steps": steps, "symprec": symprec}
    crystal_command(
        "elastic", model, structure, out=out, device=device, dtype=dtype, json_file=json, settings=settings
    )


def _phonons(
    model: Model,
    structure: Structure,
    supercell: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Repeats; by default from --min-length.")
    ] = None,
    min_length: Annotated[float, typer.Option(help="Thickness of the supercell, Å.")] = 10.0,
    displacement: Annotated[float, typer.Option(help="In Å.")] = 0.01,
    mesh: Annotated[int, typer.Option(help="Points along each reciprocal vector.")] = 20,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Of thermal properties, K; repeatable.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Imaginary means below −tolerance, THz.")] = 0.05,
    relax: Relax = True,
    fmax: Annotated[float, typer.Option(help="Of the relaxation, eV/Å.")] = 1e-5,
    steps: Steps = 2000,
    out: Out = Path("phonons"),
    device: Device = "cpu",
    dtype: Dtype = "float64",
    json: Json = None,
) -> None:
    """Phonon bands, density of states, imaginary modes and thermal properties, with phonopy."""
    from atomml.simulate.properties.command import crystal_command

    settings: dict[str, Any] = {
        "supercell": supercell,
        "min_length": min_length,
        "displacement": displacement,
    }
    settings |= {"mesh": mesh, "tolerance": tolerance, "relax": relax, "fmax": fmax, "steps": steps}
    settings |= {"temperatures": temperature} if temperature else {}
    crystal_command(
        "phonons", model, structure, out=out, device=device, dtype=dtype, json_file=json, settings=settings
    )


def _diffusion(
    trajectory: Run,
    element: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    skip: Skip = 0.0,
    blocks: Blocks = 5,
    window: Window = None,
    charge: Charge = None,
    interval: Interval = None,
    temperature: Temperature = None,
    wrapped: Wrapped = None,
    out: Out = Path("diffusion"),
    json: Json = None,
) -> None:
    """Diffusion coefficients with error bars from mean square displacements.

    Time step and temperature come from the folder of a run. Warns where the motion is not diffusive.
    """
    from atomml.simulate.properties.command import diffusion_command

    diffusion_command(
        trajectory,
        elements=element or [],
        out=out,
        json_file=json,
        reading={"skip": skip, "interval": interval, "temperature": temperature, "wrapped": wrapped},
        settings={"blocks": blocks, "window": window, "charge": charge},
    )


def _arrhenius(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, or files diffusion.json, one for each temperature.", metavar="RUNS"
        ),
    ],
    element: Annotated[str, typer.Option(help="Which ions.")],
    extrapolate: Annotated[list[float] | None, typer.Option(help="Temperature in K; repeatable.")] = None,
    skip: Skip = 0.0,
    blocks: Blocks = 5,
    window: Window = None,
    charge: Charge = None,
    out: Out = Path("arrhenius"),
    json: Json = None,
) -> None:
    """Activation energy from diffusion at several temperatures, and D at others with its error."""
    from atomml.simulate.properties.command import arrhenius_command

    arrhenius_command(
        runs,
        element=element,
        extrapolate=extrapolate or [],
        out=out,
        json_file=json,
        reading={"skip": skip},
        settings={"blocks": blocks, "window": window, "charge": charge},
    )


def _rdf(
    trajectory: Run,
    pair: Annotated[list[str] | None, typer.Option(help="Li-Cl; repeatable; all by default.")] = None,
    r_max: Annotated[float, typer.Option(help="In Å.")] = 8.0,
    width: Annotated[float, typer.Option(help="Of a bin, Å.")] = 0.05,
    skip: Annotated[int, typer.Option(min=0, help="Leave out the first frames.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th frame.")] = 1,
    out: Out = Path("rdf"),
    json: Json = None,
) -> None:
    """Partial radial distribution functions and coordination numbers."""
    from atomml.simulate.properties.command import rdf_command

    rdf_command(
        trajectory,
        pairs=pair or [],
        out=out,
        json_file=json,
        skip=skip,
        every=every,
        settings={"r_max": r_max, "width": width},
    )
