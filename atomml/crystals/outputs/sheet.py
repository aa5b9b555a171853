"""A picture of the first crystals: balls, bonds and the cell, seen slightly from above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from atomml.crystals.outputs.describe import pretty_formula
from atomml.datasets.lattice import wrap_fractional
from atomml.shapes import Float, Int64, ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST", "contact_sheet", "draw_crystal", "write_sheet"]

MOST = 16
"""Largest number of crystals in one picture."""
_BALL = 0.42
_BOND = 1.15
_NEAR_FACE = 0.03


class _Scene(NamedTuple):
    """Atoms of the cell and their images on its faces, in the coordinates of the picture; z towards the eye."""

    numbers: Int64[ndarray, " atoms"]
    positions: Float[ndarray, "atoms 3"]
    cell: Float[ndarray, "3 3"]


def contact_sheet(crystals: Sequence[Atoms]) -> Figure:
    """At most 16 crystals side by side, with formula and space group (``atoms.info["spacegroup"]``) below each."""
    from matplotlib.figure import Figure

    shown = list(crystals[:MOST])
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(2.7 * columns, 2.95 * rows), layout="constrained")
    for k, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if k < len(shown):
            draw_crystal(axes, shown[k])
            axes.set_title(_caption(shown[k]), y=-0.16, fontsize=9, linespacing=1.5)
    if not shown:
        figure.text(0.5, 0.5, "no valid crystal", ha="center", va="center")
    return figure


def write_sheet(crystals: Iterable[Atoms], path: Path) -> None:
    """Write the `contact_sheet` of the first crystals as PNG."""
    from atomml.training.report import save_figure

    save_figure(contact_sheet(list(islice(crystals, MOST))), path)


def draw_crystal(axes: Axes, atoms: Atoms) -> None:
    """Draw one crystal, what is farther away first."""
    scene = _scene(atoms)
    shapes = [*_cell_lines(scene), *_bonds(scene), *_balls(scene)]
    for _, draw, arguments, style in sorted(shapes, key=lambda shape: shape[0]):
        axes.add_artist(draw(*arguments, **style))
    edge = _radius(scene.numbers).max()
    points = np.concatenate([scene.positions, _corners(scene.cell)])[:, :2]
    middle, half = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max() / 2 + 1.1 * edge
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")


def _caption(atoms: Atoms) -> str:
    group = atoms.info.get("spacegroup", "")
    index = f"{atoms.info['index']}:  " if "index" in atoms.info else ""
    return f"{index}{pretty_formula(atoms)}\n{group}"


def _scene(atoms: Atoms) -> _Scene:
    """The crystal with a to the right, c upwards; turned by 24° about c and tilted by 12°."""
    fractional = wrap_fractional(atoms.cell.scaled_positions(atoms.positions))
    numbers, places = [], []
    for number, f in zip(atoms.numbers, fractional, strict=True):
        choices = [
            (x, x + 1.0) if x < _NEAR_FACE else (x, x - 1.0) if x > 1 - _NEAR_FACE else (x,) for x in f
        ]
        images = list(product(*choices))
        numbers += [int(number)] * len(images)
        places += images
    turn, tilt = np.radians([24.0, 12.0])
    about_c = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    # the picture has x to the right, y = c upwards, z = −b towards the eye
    upright = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=float)
    tilted = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    cell = atoms.cell.standard_form()[0].array @ about_c @ upright @ tilted
    return _Scene(np.array(numbers, dtype=np.int64), np.array(places) @ cell, cell)


def _corners(cell: Float[ndarray, "3 3"]) -> Float[ndarray, "8 3"]:
    return np.array(list(product((0.0, 1.0), repeat=3))) @ cell


def _cell_lines(scene: _Scene) -> list[Any]:
    """The twelve edges, in pieces, so that balls can hide parts of them."""
    from matplotlib.lines import Line2D

    lines, ends = [], np.linspace(0, 1, 13)
    for axis, corner in product(range(3), product((0.0, 1.0), repeat=2)):
        start = np.insert(np.array(corner), axis, 0.0) @ scene.cell
        points = start + ends[:, None] * scene.cell[axis]
        for a, b in pairwise(points):
            style = {"color": "0.55", "linewidth": 0.7, "solid_capstyle": "round"}
            lines.append(((a[2] + b[2]) / 2, Line2D, ((a[0], b[0]), (a[1], b[1])), style))
    return lines


def _bonds(scene: _Scene) -> list[Any]:
    """A stick in two colours between atoms closer than 1.15 times the sum of their covalent radii."""
    from matplotlib.lines import Line2D

    sticks = []
    radii = covalent_radii[scene.numbers]
    for i in range(len(radii)):
        vectors = scene.positions[i + 1 :] - scene.positions[i]
        lengths = np.linalg.norm(vectors, axis=1)
        for k in np.flatnonzero(lengths < _BOND * (radii[i] + radii[i + 1 :])):
            j, middle = i + 1 + k, scene.positions[i] + vectors[k] / 2
            for end in (i, j):
                inside = 0.8 * _radius(scene.numbers[end]) / (lengths[k] / 2)
                a, b = scene.positions[end] * (1 - inside) + middle * inside, middle
                style = {
                    "color": _colour(int(scene.numbers[end]), 0.85),
                    "linewidth": 2.2,
                    "solid_capstyle": "butt",
                }
                sticks.append(((a[2] + b[2]) / 2, Line2D, ((a[0], b[0]), (a[1], b[1])), style))
    return sticks


def _balls(scene: _Scene) -> list[Any]:
    """Each atom as a disc with an edge, and two lighter ones inside it for the light from above."""
    from matplotlib.patches import Circle

    discs = []
    for number, (x, y, z) in zip(scene.numbers, scene.positions, strict=True):
        radius = float(_radius(number))
        for size, shift, tone in ((1.0, 0.0, 1.0), (0.62, 0.2, 1.18), (0.25, 0.36, 1.6)):
            centre = (x - shift * radius, y + shift * radius)
            style = {
                "facecolor": _colour(int(number), tone),
                "edgecolor": "0.2" if tone == 1 else "none",
                "linewidth": 0.5,
            }
            discs.append((z, Circle, (centre, size * radius), style))
    return discs


def _radius(numbers: Any) -> Any:
    """Radius of the balls in Å."""
    return _BALL * np.maximum(covalent_radii[numbers], 0.6)


def _colour(number: int, tone: float) -> tuple[float, ...]:
    """The colour of an element in Jmol, darker below tone 1 and lighter above."""
    colour = jmol_colors[number]
    return tuple(colour * tone if tone <= 1 else 1 - (1 - colour) * (2 - tone))
