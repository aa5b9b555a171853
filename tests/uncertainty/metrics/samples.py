"""Errors drawn from known distributions."""

import numpy as np
from scipy.spatial.transform import Rotation


def scalars(rng, n=4000, factor=1.0):
    """Deviations over a decade and Gaussian errors ``factor`` times as large as they say."""
    std = np.exp(rng.uniform(np.log(0.01), np.log(0.1), n))
    return factor * std * rng.normal(size=n), std


def vectors(rng, n=4000, factor=1.0, d=3):
    """Random covariances, and errors ``factor`` times as large as they say."""
    root = rng.normal(size=(n, d, d)) * np.exp(rng.normal(size=(n, 1, 1)))
    cov = root @ root.transpose(0, 2, 1) + 0.05 * np.eye(d)
    error = np.einsum("nij,nj->ni", np.linalg.cholesky(cov), rng.normal(size=(n, d)))
    return factor * error, cov


def rotated(error, cov, seed=0):
    """Every vector and its covariance turned by a rotation of its own."""
    r = Rotation.random(len(error), random_state=seed).as_matrix()
    return np.einsum("nij,nj->ni", r, error), r @ cov @ r.transpose(0, 2, 1)
