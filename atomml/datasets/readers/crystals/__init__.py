"""Crystals without forces: CSV files with CIF text, CIF files, folders and archives of them."""
