"""Small crystal models and crystals for tests."""

from __future__ import annotations

import torch
from ase import Atoms
from ase.build import bulk

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.config import CrystalModelConfig, CSPNetConfig, FlowConfig
from atomml.crystals.model import CrystalModel

NETWORK = {"hidden": 24, "layers": 2, "frequencies": 4, "time_channels": 8}
ELEMENTS = (3, 11, 17, 22, 8)


def small_model(seed: int = 0, *, network=None, flow=None, properties=None, **config) -> CrystalModel:
    """An untrained model in float32."""
    torch.manual_seed(seed)
    settings = CrystalModelConfig(
        network=CSPNetConfig(**(NETWORK | (network or {}))),
        flow=FlowConfig(**({"steps": [5, 10]} | (flow or {}))),
        properties=list(properties or {}),
        **config,
    )
    return CrystalModel(
        settings,
        elements=ELEMENTS,
        lattice_scale=2.0,
        atom_counts={2: 0.5, 5: 0.5},
        property_scales=properties or {},
    ).eval()


def perovskite() -> Atoms:
    """Cubic LiTiO3."""
    return Atoms(
        "LiTiO3",
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=[3.9, 3.9, 3.9],
        pbc=True,
    )


def salts() -> list[Atoms]:
    """LiCl, NaCl and a perovskite."""
    return [bulk("LiCl", "rocksalt", 5.1), bulk("NaCl", "rocksalt", 5.6), perovskite()]


def batch_of(*atoms: Atoms) -> CrystalBatch:
    """In float32."""
    return CrystalBatch.from_atoms(list(atoms) or salts(), dtype=torch.float32)
