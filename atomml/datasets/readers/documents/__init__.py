"""JSON documents with pymatgen or JARVIS structures: MatPES, MPtrj, mlearn, ALIGNN; files of any size."""
