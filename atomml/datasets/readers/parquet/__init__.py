"""Parquet files with one structure per row, whose columns are found at run time."""
