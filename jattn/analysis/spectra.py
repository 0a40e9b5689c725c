"""Spectra of weight matrices, against those of random ones (Marchenko and Pastur 1967; Martin and Mahoney 2021)."""

import dataclasses

import numpy as np

from jattn.analysis.power_laws import PowerLaw, fit


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Of W^T W / n, W with n rows and no more columns.

    Attributes:
      eigenvalues: ascending.
      edge: where they would end if entries were independent, with the variance that W's have.
      outside: share of them beyond it (above; a tenth is allowed for finite size).
      stable_rank: sum of the eigenvalues / the largest.
      tail: power law of the largest; its alpha is the spectral exponent.
    """

    eigenvalues: np.ndarray
    edge: float
    outside: float
    stable_rank: float
    tail: PowerLaw


def spectrum(matrix: np.ndarray, resamples: int = 0) -> Spectrum:
    """The spectrum of a matrix (more axes than two are merged into the first); `resamples` as in `power_laws.fit`."""
    w = np.asarray(matrix, np.float64).reshape(-1, matrix.shape[-1])
    w = w if w.shape[0] >= w.shape[1] else w.T
    values = np.sort(np.linalg.svd(w, compute_uv=False) ** 2) / len(w)
    edge = float(np.var(w) * (1 + np.sqrt(w.shape[1] / w.shape[0])) ** 2)
    return Spectrum(
        eigenvalues=values,
        edge=edge,
        outside=float(np.mean(values > 1.1 * edge)),
        stable_rank=float(values.sum() / values[-1]) if values[-1] > 0 else 0.0,
        tail=fit(values, resamples=resamples),
    )
