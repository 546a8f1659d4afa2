"""Raw video streams without a container: frames are counted, and any range of frames can be decoded alone."""

import av
import numpy as np
import pytest

from pipeline.ingest.video import decode_at, read_timeline
from tests.ingest.makers import number_of, picture


@pytest.mark.parametrize("between", [0, 2])
def test_frames_of_a_raw_stream_are_found_by_their_number(tmp_path, between):
    uri = str(tmp_path / "video.h264")
    with av.open(uri, "w") as film:
        stream = film.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "10", "bf": str(between), "crf": "8"}
        for number in range(40):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        film.mux(stream.encode())
    timeline = read_timeline(uri)
    assert len(timeline.timestamps_ns) == 40 and "frames a second are assumed" in timeline.notes[0]
    for start, stop in ((0, 40), (11, 20), (10, 11), (35, 40)):
        shown = decode_at(uri, timeline.timestamps_ns[start:stop])
        assert [number_of(np.asarray(image)) for image in shown] == list(range(start, stop))
