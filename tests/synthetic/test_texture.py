"""Filtered patterns equal the mean of the unfiltered pattern over the footprint."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.synthetic.texture import NoiseAtlas, band, cell_hash, stripes

_place = st.floats(-20, 20, width=32)
_width = st.floats(0.0625, 7, width=32)


def _dense(x: float, width: float) -> np.ndarray:
    return x + width * ((np.arange(20_000) + 0.5) / 20_000 - 0.5)


@given(_place, _width, st.floats(0, 0.5), st.floats(0.05, 0.5))
def test_stripes_are_the_mean_over_the_footprint(x: float, width: float, start: float, duty: float) -> None:
    part = _dense(x, width) % 1.0
    expected = ((part >= start) & (part < start + duty)).mean()
    assert abs(float(stripes(torch.tensor([x]), torch.tensor([width]), start, duty)) - expected) < 2e-3


@given(_place, _width, _place, st.floats(0.1, 5))
def test_a_band_is_the_mean_over_the_footprint(x: float, width: float, low: float, wide: float) -> None:
    samples = _dense(x, width)
    expected = ((samples >= low) & (samples < low + wide)).mean()
    assert abs(float(band(torch.tensor([x]), torch.tensor([width]), low, low + wide)) - expected) < 2e-3


def test_noise_fades_to_its_mean_with_the_footprint_and_repeats_by_seed() -> None:
    cpu = torch.device("cpu")
    noise = NoiseAtlas.from_seed(1, cpu)
    a, b = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(1)) * 100 - 50
    spread = [float(noise.sample(a, b, 0.05, torch.full_like(a, f)).std()) for f in (0.01, 0.1, 1.0, 100.0)]
    assert abs(spread[0] - 1.0) < 0.1
    assert spread[0] > spread[1] > spread[2] > spread[3]
    again = NoiseAtlas.from_seed(1, cpu)
    assert torch.equal(noise.texels, again.texels)
    assert not torch.equal(noise.texels, NoiseAtlas.from_seed(2, cpu).texels)


def test_hashes_of_cells_are_spread_over_zero_to_one() -> None:
    a, b = torch.meshgrid(torch.arange(-50.0, 50), torch.arange(-50.0, 50), indexing="ij")
    numbers = cell_hash(a.reshape(-1), b.reshape(-1), 7.0)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert float(counts.min()) > 700
