"""Laws of the chunk plan: no frame is lost or owned twice, and ranks get equal shares."""

import math
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.ingest.chunks import owned_frames, plan_chunks, plan_segments, rank_chunks


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    chunk_size = draw(st.integers(1, 80))
    return draw(st.integers(1, 400)), chunk_size, draw(st.integers(0, chunk_size - 1))


@given(plans())
def test_chunks_follow_the_formula_of_the_paper(plan):
    frames, size, overlap = plan
    chunks = plan_chunks(frames, size, overlap)
    expected = 1 if frames <= size else math.ceil((frames - overlap) / (size - overlap))
    assert len(chunks) == expected
    for k, chunk in enumerate(chunks):
        assert chunk.start == k * (size - overlap)
        assert chunk.stop == min(chunk.start + size, frames)
    # the first chunk that reaches the last frame is the last chunk
    assert all(chunk.stop < frames for chunk in chunks[:-1])
    assert chunks[-1].stop == frames


def test_the_published_settings_give_the_known_chunks():
    expected = (range(20), range(10, 30), range(20, 40), range(30, 50), range(40, 51))
    assert plan_chunks(51, 20, 10) == expected
    assert len(plan_chunks(1101, 60, 30)) == 36
    assert plan_chunks(60, 60, 30) == (range(60),)
    assert plan_chunks(61, 60, 30) == (range(60), range(30, 61))
    assert plan_chunks(1, 60, 30) == (range(1),)


@given(plans())
def test_every_frame_has_exactly_one_owner_that_saw_it(plan):
    chunks = plan_chunks(*plan)
    owned = owned_frames(chunks)
    assert [frame for own in owned for frame in own] == list(range(plan[0]))
    assert len(owned) == len(chunks)
    for own, chunk in zip(owned, chunks, strict=True):
        assert chunk.start <= own.start <= own.stop <= chunk.stop


def test_an_overlap_is_halved():
    assert owned_frames(plan_chunks(51, 20, 10)) == (
        range(15),
        range(15, 25),
        range(25, 35),
        range(35, 45),
        range(45, 51),
    )


@given(st.integers(0, 200), st.integers(1, 40))
def test_ranks_share_chunks_in_contiguous_runs_that_differ_by_at_most_one(count, world_size):
    shares = rank_chunks(count, world_size)
    assert len(shares) == world_size
    assert [chunk for share in shares for chunk in share] == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@given(plans(), st.integers(1, 9), st.integers(1, 90))
def test_segments_cover_what_a_rank_needs_once_and_in_order(plan, world_size, max_length):
    chunks = plan_chunks(*plan)
    for share in rank_chunks(len(chunks), world_size):
        mine = [chunks[k] for k in share]
        segments = plan_segments(mine, max_length)
        needed = sorted({frame for chunk in mine for frame in chunk})
        assert [frame for segment in segments for frame in segment] == needed
        assert all(1 <= len(segment) <= max_length for segment in segments)


@pytest.mark.parametrize(("world_size", "cost"), [(1, 1.00), (4, 1.08), (8, 1.19)])
def test_frames_are_decoded_little_more_than_once(world_size, cost):
    chunks = plan_chunks(1101, 60, 30)
    decoded = sum(
        len(segment)
        for share in rank_chunks(len(chunks), world_size)
        for segment in plan_segments([chunks[k] for k in share], 30)
    )
    assert decoded / 1101 == pytest.approx(cost, abs=0.005)


@given(st.integers(1, 100), st.integers(1, 100))
def test_an_overlap_that_leaves_nothing_to_advance_by_is_refused(size, overlap):
    assume(overlap >= size)
    with pytest.raises(ValueError, match="overlap must be smaller than the chunk size"):
        plan_chunks(10, size, overlap)


def test_planning_finding_drives_and_decoding_images_need_no_ray():
    script = (
        "import sys; import pipeline.ingest.chunks, pipeline.ingest.drives, pipeline.ingest.preprocess, "
        "pipeline.ingest.segments; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: plan_chunks(0, 20, 10),
        lambda: plan_chunks(10, 0, 0),
        lambda: plan_chunks(10, 5, -1),
        lambda: rank_chunks(-1, 2),
        lambda: rank_chunks(5, 0),
        lambda: plan_segments([range(5)], 0),
        lambda: plan_segments([range(5), range(7, 9)], 4),
        lambda: owned_frames([range(5), range(6)]),
        lambda: owned_frames([range(3, 3)]),
    ],
)
def test_invalid_numbers_are_refused(call):
    with pytest.raises(ValueError):
        call()
