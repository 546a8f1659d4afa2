"""Quantiles of chi-squared are SciPy's."""

import pytest
from scipy.stats import chi2

from pipeline.common.chi_squared import chi_squared_quantile


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.99, 0.99999])
@pytest.mark.parametrize("degrees", [3, 6, 7, 40])
def test_a_quantile_is_scipys(probability, degrees):
    assert chi_squared_quantile(probability, degrees) == chi2.ppf(probability, degrees)
