"""`atomml data convert`, `report` and `split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomml.errors import ConfigError

if TYPE_CHECKING:
    from atomml.datasets import FrameStore

__all__ = ["register"]

Sources = Annotated[
    list[Path],
    typer.Argument(help="Files that ASE reads (.gz, .xz too) or native data folders.", metavar="SRC..."),
]
EnergyKey = Annotated[str | None, typer.Option(help="Name of the energy; found by itself if not given.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the forces.")]
StressKey = Annotated[str | None, typer.Option(help="Name of the stress or virial.")]
EnergyUnit = Annotated[str, typer.Option(help="eV, Hartree, Ry, kcal/mol or kJ/mol.")]
LengthUnit = Annotated[str, typer.Option(help="Ang, Bohr or nm.")]
StressUnit = Annotated[str, typer.Option(help="eV/A^3, GPa or kbar.")]
StressSign = Annotated[str, typer.Option(help='"ase" (negative when compressed) or "pressure" (VASP).')]
Index = Annotated[str, typer.Option(help='Which frames, as in ASE: ":" all, "::10" every tenth.')]
Format = Annotated[str | None, typer.Option(help="ASE's name of the file format.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing data folder.")]


def register(app: typer.Typer) -> None:
    """Add the ``data`` commands to ``app``."""
    data = typer.Typer(help="Read, inspect, convert and divide data sets.", no_args_is_help=True)
    data.command("convert")(_convert)
    data.command("report")(_report)
    data.command("split")(_split)
    app.add_typer(data, name="data")


def _convert(
    src: Sources,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Ang",
    stress_unit: StressUnit = "eV/A^3",
    stress_sign: StressSign = "ase",
    index: Index = ":",
    format: Format = None,
    info: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept in the header: licence=CC-BY-4.0.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Write the native, memory-mapped data folder: faster to open and safe to share between processes."""
    notes = _notes(info or [])
    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    units = {"energy_unit": energy_unit, "length_unit": length_unit, "stress_unit": stress_unit}
    units["stress_sign"] = stress_sign
    store = _load(src, **keys, **units, index=index, format=format)
    store.info.update(notes)
    store.save(out, overwrite=overwrite)
    typer.echo(f"wrote {out}")
    _write_json(json, {"out": str(out), **_facts(store)})


def _report(
    src: Sources,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("data_report"),
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Ang",
    stress_unit: StressUnit = "eV/A^3",
    stress_sign: StressSign = "ase",
    index: Index = ":",
    format: Format = None,
    json: Json = None,
) -> None:
    """Report what is in a data set and what looks wrong with it: Markdown, figures, CSV and JSON.

    Elements, energies, forces, outliers, duplicates, shortest distances, volumes, tags and the sign of the
    stress.
    """
    from atomml.datasets import data_report

    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    units = {"energy_unit": energy_unit, "length_unit": length_unit, "stress_unit": stress_unit}
    units["stress_sign"] = stress_sign
    store = _load(src, **keys, **units, index=index, format=format, require_energy=False)
    summary = data_report(store, out)
    for warning in summary["warnings"]:
        typer.echo(f"! {warning}")
    sign = summary["stress_sign"]
    if sign["correlation"] is not None:
        typer.echo(f"sign of the stress: {sign['verdict']} (correlation {sign['correlation']:+.2f})")
    typer.echo(f"wrote {out / 'report.md'}")
    _write_json(json, summary)


def _split(
    src: Sources,
    out: Annotated[Path, typer.Option("--out", help="Split file (JSON).")] = Path("split.json"),
    valid: Annotated[str, typer.Option(help="Validation: a fraction or a number of frames.")] = "0.1",
    test: Annotated[str, typer.Option(help="Test: likewise.")] = "0",
    test_where: Annotated[
        str | None, typer.Option(help='Test frames by a condition on tags: "T >= 1000 and system == LiCl".')
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Tag whose values stay together: traj, mol_id, formula.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choice.")] = 0,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    index: Index = ":",
    format: Format = None,
    json: Json = None,
) -> None:
    """Divide the rows of a data set into train, validation and test, and save them with its fingerprint."""
    from atomml.datasets import split_by_condition, split_by_group, split_random, tag_values

    sizes = _size(valid, "--valid"), _size(test, "--test")
    if test_where is not None and sizes[1]:
        raise ConfigError("--test and --test-where are both given.", fix="give one of them")
    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    store = _load(src, **keys, index=index, format=format, require_energy=False)
    if test_where is not None:
        split = split_by_condition(store, test_where, valid=sizes[0], group=group, seed=seed)
    elif group is not None:
        split = split_by_group(tag_values(store, group), valid=sizes[0], test=sizes[1], seed=seed)
    else:
        split = split_random(len(store), valid=sizes[0], test=sizes[1], seed=seed)
    split.save(out, store)
    typer.echo(f"{split.summary()}\nwrote {out}")
    _write_json(json, {"out": str(out), "how": split.how, "summary": split.summary(), **_facts(store)})


def _load(src: list[Path], **options: Any) -> FrameStore:
    from rich.console import Console

    from atomml.datasets import label_summary, load_frames

    with Console(stderr=True).status("reading"):
        store = load_frames(src, **options)
    typer.echo(f"{len(store)} frames, {len(store.numbers)} atoms: {label_summary(store)}")
    for info in store.origins():
        for label, entry in info.get("labels", {}).items():
            if entry["also"]:
                also = ", ".join(entry["also"])
                typer.echo(f"! {info['source']}: {label} is read from {entry['key']}; also present: {also}")
    return store


def _facts(store: FrameStore) -> dict[str, Any]:
    return {"frames": len(store), "labels": store.label_counts(), "fingerprint": store.fingerprint()}


def _size(text: str, option: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ConfigError(f"{text!r} is not a number.", where=option, fix="give a fraction (0.1) or a count (50)")


def _notes(settings: list[str]) -> dict[str, str]:
    notes = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"{setting!r} is not KEY=VALUE.", where="--info", fix="write licence=CC-BY-4.0")
        if key in ("labels", "source", "stated", "not_read", "parts"):
            raise ConfigError(f"The key {key!r} is used by the format.", where="--info", fix="choose another")
        notes[key] = value
    return notes


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        from json import dumps

        path.write_text(dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
