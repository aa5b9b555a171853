"""Uncertainty of energies, forces and stress."""
