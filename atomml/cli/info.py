"""`atomml info`: what is written in the header of a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("info")(_info)


def _info(
    model: Annotated[str, typer.Argument(help="Model file, or the name of a bundled one.", metavar="MODEL")],
    json: Annotated[bool, typer.Option("--json", help="Print the whole header as JSON.")] = False,
) -> None:
    """Show what a model is: network, elements, units, training data, errors, licence.

    Reads the header only: no weights are loaded and nothing in the file is executed.
    """
    from atomml.potentials.model_file import CRYSTAL_FORMAT, FORMAT, read_header

    header = read_header(model, FORMAT, CRYSTAL_FORMAT)
    if json:
        from json import dumps

        typer.echo(dumps(header, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(_overview(model, header))
    if header.get("e0"):
        console.print(_reference_energies(header))


def _overview(model: str, header: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Model {Path(model).name}", show_header=False)
    for name, value in _crystal_rows(header) if "atom_counts" in header else _rows(header):
        table.add_row(Text(name, "bold"), Text(value))
    return table


def _rows(header: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what a user asks first; an absent entry is left out."""
    config = dict(header.get("config", {}))
    rows = [
        ("network", str(config.pop("kind", "unknown"))),
        ("elements", " ".join(element_symbols(header.get("elements", [])))),
        ("cutoff", f"{config.pop('cutoff', float('nan')):g} Å"),
        ("parameters", f"{header['parameters']:,}" if "parameters" in header else ""),
        ("precision", str(header.get("dtype", ""))),
        ("forces", _forces_text(header.get("conservative"))),
        ("deviations", _uncertainty_text(header["uncertainty"]) if "uncertainty" in header else "none"),
        ("settings", _pairs(config)),
        ("compiled", _compiled_text(header["compiled"]) if "compiled" in header else ""),
        ("coupling", "; ".join(_factor_text(k, f) for k, f in header.get("factors", {}).items())),
        ("units", _pairs(header.get("units", {}))),
        ("data", _pairs(header.get("data", {}))),
        ("errors", _pairs(header.get("metrics", {}))),
        ("licence", str(header.get("licence", ""))),
        ("written", _written_text(header)),
    ]
    return [(name, value) for name, value in rows if value]


def _crystal_rows(header: dict[str, Any]) -> list[tuple[str, str]]:
    """The same of a model of crystals."""
    config = dict(header["config"])
    network, flow, given = config["network"], config["flow"], config["given_types"]
    sizes = header["atom_counts"].items()
    properties = header["property_scales"].items()
    rows = [
        ("network", _pairs(network)),
        ("predicts", "structures of a given composition" if given == 1 else "structures and elements"),
        ("elements", " ".join(element_symbols(header["elements"]))),
        ("atoms", ", ".join(f"{n} ({share:.0%})" for n, share in sizes)),
        ("guided by", ", ".join(f"{name} {mean:.4g} ± {std:.3g}" for name, (mean, std) in properties)),
        ("flow", _pairs(flow)),
        ("trained for", f"{', '.join(map(str, flow['steps']))} steps"),
        ("units", _pairs(header["units"])),
        ("data", _pairs(header["data"])),
        ("losses", _pairs(header["metrics"])),
        ("licence", str(header["licence"])),
        ("written", _written_text(header)),
    ]
    return [(name, value) for name, value in rows if value]


def element_symbols(numbers: list[int]) -> list[str]:
    """Chemical symbols; the table of elements comes with ASE, whose data module is light."""
    from ase.data import chemical_symbols

    return [str(chemical_symbols[z]) for z in numbers]


def _forces_text(conservative: bool | None) -> str:
    if conservative is None:
        return ""
    return "derivatives of the energy" if conservative else "direct output, not conservative"


def _factor_text(role: str, factor: dict[str, Any]) -> str:
    kind, rank, error = factor.get("kind"), factor.get("rank"), factor.get("error", float("nan"))
    return f"{role}: {kind}, L = {factor.get('lmax')}, rank {rank}, error {error:.1e}"


def _compiled_text(facts: dict[str, Any]) -> str:
    worst = {
        name: max((e[name] for e in facts["difference"].values()), default=float("nan"))
        for name in ("scaled_energy", "scaled_forces")
    }
    limit, knots = facts["tolerance"], " and ".join(str(k) for k in sorted(set(facts["knots"])))
    structures = "{number} structures {origin}".format(**facts["structures"])
    return (
        f"for inference only; radial tables of {knots} knots; differs by up to"
        f" {worst['scaled_energy']:.1e} eV/atom (allowed {limit['energy']:g}) and"
        f" {worst['scaled_forces']:.1e} eV/Å (allowed {limit['forces']:g}) on {structures};"
        f" source sha256 {facts['source_sha256'][:16]}…"
    )


def _uncertainty_text(entry: dict[str, Any]) -> str:
    """Method, members, and what the calibration was fitted on and gives."""
    members = f" of {entry['members']}" if entry.get("members", 1) > 1 else ""
    calibration = entry.get("calibration")
    if calibration is None:
        return f"{entry['method']}{members}, not calibrated"
    data = calibration.get("data", {})
    frames = f" on {data['frames']} frames" if "frames" in data else ""
    return f"{entry['method']}{members}, calibrated by {calibration['method']}{frames} ({calibration['id']})"


def _written_text(header: dict[str, Any]) -> str:
    return f"{header.get('created', 'unknown')} by atomml {header.get('atomml', 'unknown')}"


def _pairs(items: dict[str, Any]) -> str:
    """``{"a": 1, "b": {"c": 2.0}}`` as "a 1, b.c 2"; long lists are counted."""
    return ", ".join(f"{key} {value}" for key, value in _flat(items))


def _flat(items: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in items.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) > 8:
            rows.append((prefix + key, f"({len(value)} values)"))
        elif isinstance(value, float):
            rows.append((prefix + key, f"{value:.4g}"))
        else:
            rows.append((prefix + key, str(value)))
    return rows


def _reference_energies(header: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("element", "E0 (eV)", title="Reference energies")
    table.columns[1].justify = "right"
    for number, energy in header["e0"].items():
        table.add_row(*element_symbols([int(number)]), f"{energy:.6f}")
    return table
