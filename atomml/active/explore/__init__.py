"""Where new structures come from: dynamics, displacements, strains, relaxations, generated crystals, files."""
