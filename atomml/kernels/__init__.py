"""Tensor products: coupling tensors, their factors, operators and backends."""
