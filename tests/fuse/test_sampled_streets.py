"""Parts of a city are represented by frames of their streets."""

from dataclasses import replace

from pipeline.fuse.sampled_streets import most_sampled, sampled
from tests.fuse.test_opposite import along


def test_each_part_of_a_city_is_sampled_by_its_streets():
    one = [along((0.1 * n, 0, 5), (0.1 * n, 0, 95)) for n in range(30)]
    leads = [drive.frame_index for drive in one]
    assert len(sampled(one[:3], {"of-a": 1.0}, leads[:3], 4, 1_000)) == 3 * 10
    assert len(sampled(one, {"of-a": 1.0}, leads, 4, 1_000)) == 4 * 10
    assert len(sampled(one, {"of-a": 1.0}, leads, 2, 15)) == 15
    apart = [*one[:4], replace(one[0], frame="of-b")]
    assert len(sampled(apart, {"of-a": 1.0, "of-b": 1.0}, leads[:5], 4, 1_000)) == 5 * 10
    assert most_sampled([2_500] * 3, 4_000) == 750 and most_sampled([2_500] * 2_000, 4_000) == 4_000
