"""The module that metatomic runs, in the subset of Python that TorchScript compiles.

metatomic is imported here, so this module is imported only where it is used. The annotations are part of the
interface, which compares them with its own: they must be the types themselves, in their older spelling, and
``from __future__ import annotations`` would make them text.
"""

from typing import Any, Dict, List, Optional, Tuple, no_type_check  # noqa: UP035

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor, nn

__all__ = ["MetatomicModule"]


@no_type_check
class MetatomicModule(nn.Module):
    """Energies, deviations and members of structures with the neighbours that the simulation engine found.

    Args:
        network: recorded `atomml.simulate.export.network.ExportedNetwork`.
        species: species of each atomic number.
        cutoff: in Å.
        alpha, beta, gamma, mean_noise: see `atomml.simulate.export.network.EnergyDeviation`.
    """

    species_of_z: Tensor

    def __init__(
        self,
        network: Any,
        species: Tensor,
        cutoff: float,
        alpha: float,
        beta: float,
        gamma: float,
        mean_noise: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.neighbors = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)
        self.alpha, self.beta, self.gamma, self.mean_noise = alpha, beta, gamma, mean_noise
        self.register_buffer("species_of_z", species)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """Every pair within the cutoff, in both directions, and no other."""
        return [self.neighbors]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """``energy``, ``energy_uncertainty`` and ``energy_ensemble``, of structures or of atoms, of all or selected.

        Of all atoms those that are not selected count as neighbours only.
        """
        found: Dict[str, TensorMap] = {}  # noqa: UP006
        if len(systems) == 0 or len(outputs) == 0:
            return found
        atoms, first = self.atoms_of(systems)
        energies, spread, members, log_var = self.evaluate(systems, first)
        if selected_atoms is not None:
            atoms = selected_atoms.values.to(torch.int64)
            rows = first[atoms[:, 0]] + atoms[:, 1]
            energies, spread, members, log_var = energies[rows], spread[rows], members[rows], log_var[rows]
        dtype, n_systems = systems[0].positions.dtype, len(systems)
        for name, output in outputs.items():
            per_atom = output.sample_kind == "atom"
            if name == "energy_uncertainty":
                values = self.deviation(spread, log_var, atoms[:, 0], n_systems, per_atom)[:, None]
            else:
                values = energies[:, None]
                if name == "energy_ensemble":
                    values = values + self.alpha * self.gamma * members
                if not per_atom:
                    values = self.sums(values, atoms[:, 0], n_systems)
            found[name] = self.labelled(values.to(dtype), atoms, n_systems, per_atom)
        return found

    def atoms_of(self, systems: List[System]) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """System and index in it of every atom [N, 2], and how many atoms come before each system."""
        atoms: List[Tensor] = []  # noqa: UP006
        first: List[int] = []  # noqa: UP006
        total = 0
        device = systems[0].positions.device
        for k, system in enumerate(systems):
            index = torch.arange(len(system), device=device)
            atoms.append(torch.stack([torch.full_like(index, k), index], 1))
            first.append(total)
            total += len(system)
        return torch.cat(atoms), torch.tensor(first, device=device)

    def evaluate(
        self,
        systems: List[System],  # noqa: UP006
        first: Tensor,
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
        """The network of all systems as one graph."""
        species: List[Tensor] = []  # noqa: UP006
        vectors: List[Tensor] = []  # noqa: UP006
        pairs: List[Tensor] = []  # noqa: UP006
        for k, system in enumerate(systems):
            block = system.get_neighbor_list(self.neighbors)
            species.append(self.species_of_z[system.types.to(torch.int64)])
            vectors.append(block.values[:, :, 0])
            pairs.append(block.samples.values[:, :2].to(torch.int64) + first[k])
        pair = torch.cat(pairs)
        result = self.network(torch.cat(species), torch.cat(vectors), pair[:, 0], pair[:, 1])
        return result[0], result[1], result[2], result[3]

    def sums(self, values: Tensor, owner: Tensor, n_systems: int) -> Tensor:
        """Sum over the atoms of each system."""
        total = torch.zeros([n_systems, values.shape[1]], dtype=values.dtype, device=values.device)
        return total.index_add(0, owner, values)

    def deviation(
        self, spread: Tensor, log_var: Tensor, owner: Tensor, n_systems: int, per_atom: bool
    ) -> Tensor:
        """Calibrated standard deviation of the energies of atoms or systems."""
        count = torch.ones([len(owner), 1], dtype=spread.dtype, device=spread.device)
        noise = torch.exp(log_var)
        if not per_atom:
            if self.mean_noise:
                number = self.sums(count, owner, n_systems).clamp(min=1.0)
                noise = torch.exp(self.sums(log_var, owner, n_systems) / number)
            else:
                noise = self.sums(noise, owner, n_systems)
            spread, count = self.sums(spread, owner, n_systems), self.sums(count, owner, n_systems)
        variance = self.gamma**2 * spread.square().sum(1)
        if noise.shape[1] > 0:
            variance = variance + noise.mean(1)
        return torch.sqrt(self.alpha**2 * variance + self.beta**2 * count[:, 0])

    def labelled(self, values: Tensor, atoms: Tensor, n_systems: int, per_atom: bool) -> TensorMap:
        """Values with the labels that metatomic asks for."""
        device = values.device
        if per_atom:
            samples = Labels(["system", "atom"], atoms.to(torch.int32), assume_unique=True)
        else:
            samples = Labels(["system"], torch.arange(n_systems, device=device).to(torch.int32)[:, None])
        components: List[Labels] = []  # noqa: UP006
        properties = Labels(["energy"], torch.arange(values.shape[1], device=device).to(torch.int32)[:, None])
        block = TensorBlock(values, samples, components, properties)
        return TensorMap(Labels(["_"], torch.zeros([1, 1], dtype=torch.int32, device=device)), [block])
