"""`atomml crystals train`, `generate`, `relax` and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from atomml.cli import crystals_evaluate
from atomml.cli.train import Config, Overwrite, Quiet, Resume, Set, parse_settings
from atomml.errors import ConfigError

__all__ = ["register"]

Folder = Annotated[Path, typer.Argument(help="Folder of generated crystals.", metavar="OUT")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]
GoOn = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
Discard = Annotated[bool, typer.Option("--overwrite", help="Discard the results in the folder.")]
Count = Annotated[
    int | None, typer.Option("--n", min=1, help="Crystals; by default 16, or one for each of --like.")
]
Formula = Annotated[str | None, typer.Option(help="Composition: LiMn3O4.")]
Z = Annotated[
    int | None, typer.Option("--z", help="Formula units; by default drawn as in the training data.")
]
System = Annotated[str | None, typer.Option(help="No other elements than these: Li-O.")]
Exactly = Annotated[bool, typer.Option("--exactly", help="Only crystals with all elements of the system.")]
Atoms = Annotated[int | None, typer.Option(help="Atoms in the cell; by default drawn likewise.")]
MaxAtoms = Annotated[int | None, typer.Option(help="Most atoms in the cell.")]
Like = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The compositions of these crystals in turn.")
]
Template = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keep the atoms and the cell of this crystal.")
]
FreeLattice = Annotated[bool, typer.Option("--free-lattice", help="Keep only the atoms of the template.")]
Property = Annotated[
    list[str] | None,
    typer.Option("--property", metavar="NAME=VALUE", help="Target, density=4.2; repeatable."),
]
Guidance = Annotated[float, typer.Option(help="Strength of the guidance beyond the condition.")]
Steps = Annotated[int, typer.Option(min=1, help="Calls of the network for each crystal.")]
Strategy = Annotated[str, typer.Option(help="end_back, vanilla or mix.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same crystals.")]
Batch = Annotated[int, typer.Option(min=1, help="Crystals drawn together.")]
Potential = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Then relax them: chgnet, or a potential.")
]
Symmetrize = Annotated[
    bool, typer.Option("--symmetrize", help="CIFs with the symmetry found within 0.1 Å, not P1.")
]
Fmax = Annotated[float, typer.Option(help="Of a relaxation: largest force at the end, eV/Å.")]
RelaxSteps = Annotated[int, typer.Option(help="Of a relaxation: most steps for each crystal.")]
Cell = Annotated[bool, typer.Option("--cell/--no-cell", help="Of a relaxation: the cell changes too.")]


def register(app: typer.Typer) -> None:
    """Add the ``crystals`` commands to ``app``."""
    crystals = typer.Typer(help="Generate crystals, predict structures, evaluate them.", no_args_is_help=True)
    crystals.command("train")(_train)
    crystals.command("generate")(_generate)
    crystals.command("relax")(_relax)
    crystals_evaluate.register(crystals)
    app.add_typer(crystals, name="crystals")


def _train(
    config: Config,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = None,
) -> None:
    """Train a model that generates crystals or predicts their structure.

    Everything goes to the run folder: model.safetensors, report.md, metrics.csv, log.jsonl, checkpoint.
    """
    from atomml.crystals.train import train_crystals

    result = train_crystals(
        config, parse_settings(set_ or []), resume=resume, overwrite=overwrite, quiet=quiet
    )
    _write_json(json, result.metrics)


def _generate(
    model: Annotated[str, typer.Argument(help='Crystal model, or "demo".', metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    n: Count = None,
    formula: Formula = None,
    z: Z = None,
    chemical_system: System = None,
    exactly: Exactly = False,
    n_atoms: Atoms = None,
    max_atoms: MaxAtoms = None,
    like: Like = None,
    template: Template = None,
    free_lattice: FreeLattice = False,
    properties: Property = None,
    guidance: Guidance = 0.0,
    steps: Steps = 100,
    strategy: Strategy = "end_back",
    seed: Seed = 0,
    batch: Batch = 100,
    symmetrize: Symmetrize = False,
    relax: Potential = None,
    fmax: Fmax = 0.05,
    relax_steps: RelaxSteps = 500,
    cell: Cell = True,
    device: Device = "cpu",
    resume: GoOn = False,
    overwrite: Discard = False,
    json: Json = None,
) -> None:
    """Generate crystals, or predict the structure of a formula.

    The folder gets structures.extxyz, structures.jsonl (a line for each), cif, settings.json, summary.json and
    sheet.png; with --relax also relaxed.extxyz, relaxed.jsonl and relaxed_cif. Results that are no crystals, or not
    what was asked for, are only in structures.jsonl, with the reason. Every finished batch is on the disk: after
    Ctrl-C the same command with --resume goes on, and ends with the same crystals.
    """
    from atomml.crystals.drawing import SamplingSettings
    from atomml.crystals.generate import generate_folder

    how: dict[str, Any] = {
        "steps": steps,
        "strategy": strategy,
        "seed": seed,
        "batch": batch,
        "guidance": guidance,
    }
    wishes: dict[str, Any] = {
        "formula": formula,
        "z": z,
        "chemical_system": chemical_system,
        "exactly": exactly,
        "n_atoms": n_atoms,
        "max_atoms": max_atoms,
        "like": like,
        "template": template,
        "fix_lattice": not free_lattice,
        "properties": _properties(properties or []),
    }
    files: dict[str, Any] = {"symmetrize": symmetrize, "resume": resume, "overwrite": overwrite}
    with _warnings_as_lines(), _resumable(out, "structures"):
        summary = generate_folder(
            model, out, SamplingSettings(n=n, **how), device=device, progress=True, **files, **wishes
        )
    _show_generated(summary, out)
    if relax is not None:
        summary["relaxation"] = _relaxed(
            out, relax, fmax=fmax, steps=relax_steps, cell=cell, device=device, **files
        )
    _write_json(json, summary)


def _relax(
    out: Folder,
    model: Annotated[
        str, typer.Argument(help='"chgnet", a potential of atomml, or "demo".', metavar="MODEL")
    ],
    fmax: Fmax = 0.05,
    steps: RelaxSteps = 500,
    cell: Cell = True,
    symmetrize: Symmetrize = False,
    device: Device = "cpu",
    resume: GoOn = False,
    overwrite: Discard = False,
    json: Json = None,
) -> None:
    """Relax the crystals of a folder; one that fails does not stop the others.

    The folder gets relaxed.extxyz, relaxed.jsonl (energies, σ of potentials that have one, how far it moved) and
    relaxed_cif. An interrupted relaxation goes on with --resume.
    """
    files: dict[str, Any] = {"symmetrize": symmetrize, "resume": resume, "overwrite": overwrite}
    _write_json(json, _relaxed(out, model, fmax=fmax, steps=steps, cell=cell, device=device, **files))


def _relaxed(out: Path, model: str, **settings: Any) -> dict[str, Any]:
    from atomml.crystals.relax import relax_folder

    with _resumable(out, "relaxed"):
        summary = relax_folder(out, model, progress=True, **settings)
    typer.echo(
        f"{summary['relaxed']} of {summary['n']} relaxed, {summary['converged']} converged, "
        f"{summary['same_structure']} are still the same structure; wrote {out / 'relaxed.extxyz'}"
    )
    _show_reasons("failed", summary["failed"])
    return summary


def _show_generated(summary: dict[str, Any], out: Path) -> None:
    typer.echo(f"{summary['valid']} of {summary['n']} crystals written to {out}")
    _show_reasons("left out", summary["left_out"])
    groups = ", ".join(f"{name} {count}" for name, count in [*summary["spacegroups"].items()][:8])
    if groups:
        typer.echo(f"space groups: {groups}")
    if summary.get("without_symmetry"):
        typer.echo(f"! {summary['without_symmetry']} CIFs are P1: no symmetry was found")


def _show_reasons(what: str, reasons: dict[str, int]) -> None:
    for reason, count in reasons.items():
        typer.echo(f"! {what}: {count} {reason}")


@contextmanager
def _resumable(out: Path, name: str) -> Iterator[None]:
    """Say after Ctrl-C what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        from atomml.crystals.outputs.journal import rows_done

        kept = rows_done(out, name)
        typer.echo(f"\ninterrupted: {kept} are kept; the same command with --resume goes on", err=True)
        raise


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Warnings for people, without the place in the code."""
    import warnings

    def show(message: Warning | str, *_: object, **__: object) -> None:
        typer.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _properties(items: list[str]) -> dict[str, float]:
    """``["density=4.2"]`` as ``{"density": 4.2}``.

    Raises:
        ConfigError: not NAME=NUMBER.
    """
    found = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise ConfigError(
                f"--property {item!r} is not NAME=NUMBER.", fix="write for example --property density=4.2"
            ) from error
    return found


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        from json import dumps

        path.write_text(dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
