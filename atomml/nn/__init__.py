"""Layers: radial functions, equivariant linear maps, products, attention, repulsion."""
