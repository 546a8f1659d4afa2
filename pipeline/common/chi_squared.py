"""Quantiles of the chi-squared distribution without scipy.stats, which takes as long to import as the rest of SciPy."""

from __future__ import annotations

from scipy.special import gammaincinv


def chi_squared_quantile(probability: float, degrees: float) -> float:
    """The value that a chi-squared variable with `degrees` degrees of freedom stays below with `probability`.

    The inverse of its distribution function, the regularised incomplete gamma function P(degrees / 2, x / 2).
    """
    return float(2 * gammaincinv(degrees / 2, probability))
