"""`atomml data convert`, `formats`, `report` and `split`; further commands are registered with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomml.cli import download, sample
from atomml.errors import ConfigError

if TYPE_CHECKING:
    from atomml.datasets import FrameStore

__all__ = ["register"]

Sources = Annotated[
    list[Path],
    typer.Argument(help="Data files or folders of any known kind (`atomml data formats`).", metavar="SRC..."),
]
EnergyKey = Annotated[str | None, typer.Option(help="Name of the energy; found by itself if not given.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the forces.")]
StressKey = Annotated[str | None, typer.Option(help="Name of the stress or virial.")]
EnergyUnit = Annotated[str | None, typer.Option(help="eV (default), Hartree, Ry, kcal/mol or kJ/mol.")]
LengthUnit = Annotated[str | None, typer.Option(help="Ang (default), Bohr or nm.")]
StressUnit = Annotated[str | None, typer.Option(help="eV/A^3 (default), GPa or kbar.")]
StressSign = Annotated[
    str | None, typer.Option(help='"ase" (default; negative when compressed) or "pressure" (VASP).')
]
Index = Annotated[str | None, typer.Option(help='Which frames, as in ASE: ":" all, "::10" every tenth.')]
Format = Annotated[str | None, typer.Option(help="ASE's name of the file format.")]
ReaderName = Annotated[
    str | None,
    typer.Option("--reader", metavar="NAME", help="Kind of the files; found by itself if not given."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the reader; may be repeated."),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing data folder.")]


def register(app: typer.Typer) -> None:
    """Add the ``data`` commands to ``app``."""
    data = typer.Typer(help="Read, inspect, convert and divide data sets.", no_args_is_help=True)
    data.command("convert")(_convert)
    data.command("formats")(_formats)
    data.command("report")(_report)
    data.command("split")(_split)
    download.register(data)
    sample.register(data)
    app.add_typer(data, name="data")


def _convert(
    src: Sources,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    reader: ReaderName = None,
    settings: Settings = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    index: Index = None,
    format: Format = None,
    info: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept in the header: licence=CC-BY-4.0.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reading processes; as many as cores (at most 8) by default.")
    ] = None,
    cutoff: Annotated[
        float | None, typer.Option(min=0.1, help="Also count the neighbours within this distance (Ang).")
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, metavar="N", help="Read N parts again afterwards and compare.")
    ] = 0,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Write the native, memory-mapped data folder: fast to open, larger than memory, safe to share.

    An interrupted conversion goes on when the same command is given again.
    """
    from atomml.datasets import convert, verify_conversion
    from atomml.simulate.progress import progress_bar

    options = _options(settings, energy_key, forces_key, stress_key, energy_unit, length_unit, stress_unit)
    options |= _given(stress_sign=stress_sign, index=index, format=format)
    with progress_bar(100, "converting", show=True) as advance:
        shown = 0

        def progress(done: int, of: int, _: str) -> None:
            nonlocal shown
            advance(100 * done // of - shown)
            shown = 100 * done // of

        result = convert(
            src,
            out,
            reader=reader,
            options=options,
            notes=_notes(info or []),
            workers=workers or _processes(),
            cutoff=cutoff,
            overwrite=overwrite,
            progress=progress,
        )
    if result.resumed:
        typer.echo(f"went on from an interrupted conversion: {result.resumed} parts were there")
    _describe(result.store)
    compared = verify_conversion(out, src, parts=verify) if verify else 0
    if verify:
        typer.echo(f"read again and compared: {compared} frames, all equal")
    typer.echo(f"wrote {out}")
    _write_json(json, {"out": str(out), "verified_frames": compared, **_facts(result.store)})


def _formats(
    name: Annotated[
        str | None, typer.Argument(help="Print the options of this reader.", metavar="NAME")
    ] = None,
) -> None:
    """List the kinds of files there are, or the options of one."""
    from atomml.datasets.readers import all_readers, choose_reader

    if name is None:
        for reader in all_readers():
            typer.echo(f"{reader.name:14s} {reader.about}")
        return
    from atomml.config_manual import settings_of

    reader = choose_reader([], name)
    typer.echo(f"{reader.name}: {reader.about}\n")
    for setting in settings_of(reader.options):
        default = "required" if setting.required else f"default {setting.default}"
        typer.echo(f"{setting.key} ({setting.type}; {default})\n    {setting.meaning}")


def _report(
    src: Sources,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("data_report"),
    reader: ReaderName = None,
    settings: Settings = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    index: Index = None,
    format: Format = None,
    json: Json = None,
) -> None:
    """Report what is in a data set and what looks wrong with it: Markdown, figures, CSV and JSON.

    Elements, energies, forces, outliers, duplicates, shortest distances, volumes, tags and the sign of the
    stress.
    """
    from atomml.datasets import data_report

    options = _options(settings, energy_key, forces_key, stress_key, energy_unit, length_unit, stress_unit)
    options |= _given(stress_sign=stress_sign, index=index, format=format)
    store = _load(src, reader, options)
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
    reader: ReaderName = None,
    settings: Settings = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    index: Index = None,
    format: Format = None,
    json: Json = None,
) -> None:
    """Divide the rows of a data set into train, validation and test, and save them with its fingerprint."""
    from atomml.datasets import split_by_condition, split_by_group, split_random, tag_values

    sizes = _size(valid, "--valid"), _size(test, "--test")
    if test_where is not None and sizes[1]:
        raise ConfigError("--test and --test-where are both given.", fix="give one of them")
    options = _options(settings, energy_key, forces_key, stress_key) | _given(index=index, format=format)
    store = _load(src, reader, options)
    if test_where is not None:
        split = split_by_condition(store, test_where, valid=sizes[0], group=group, seed=seed)
    elif group is not None:
        split = split_by_group(tag_values(store, group), valid=sizes[0], test=sizes[1], seed=seed)
    else:
        split = split_random(len(store), valid=sizes[0], test=sizes[1], seed=seed)
    split.save(out, store)
    typer.echo(f"{split.summary()}\nwrote {out}")
    _write_json(json, {"out": str(out), "how": split.how, "summary": split.summary(), **_facts(store)})


def _load(src: list[Path], reader: str | None, options: dict[str, Any]) -> FrameStore:
    from rich.console import Console

    from atomml.datasets import load_frames

    with Console(stderr=True).status("reading"):
        store = load_frames(src, reader=reader, require_energy=False, **options)
    _describe(store)
    return store


def _describe(store: FrameStore) -> None:
    """What was found, what else was there, what was skipped."""
    from atomml.datasets import label_summary

    typer.echo(f"{len(store)} frames, {len(store.numbers)} atoms: {label_summary(store)}")
    for info in store.origins():
        for label, entry in info.get("labels", {}).items():
            if entry.get("also"):
                also = ", ".join(entry["also"])
                typer.echo(f"! {info['source']}: {label} is read from {entry['key']}; also present: {also}")
        for reason, entry in info.get("skipped", {}).items():
            example = f" (first: {entry['examples'][0]})" if entry["examples"] else ""
            typer.echo(f"! {entry['frames']} skipped: {reason}{example}")
        for warning in info.get("warnings", []):
            typer.echo(f"! {warning}")


def _options(
    settings: list[str] | None,
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    stress_unit: str | None = None,
) -> dict[str, Any]:
    """What was given of the options of a reader."""
    from atomml.config import set_by_path

    options: dict[str, Any] = {}
    for setting in settings or []:
        key, separator, value = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"{setting!r} is not KEY=VALUE.", where="--set", fix="write --set stage=1st")
        set_by_path(options, key, value)
    named = _given(energy_key=energy_key, forces_key=forces_key, stress_key=stress_key)
    return options | named | _given(energy_unit=energy_unit, length_unit=length_unit, stress_unit=stress_unit)


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _processes() -> int:
    import os

    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


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
