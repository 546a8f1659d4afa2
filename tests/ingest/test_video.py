"""Videos: times without decoding, single frames by time, and files that are cut off or damaged."""

import av
import numpy as np
import pytest

from pipeline.errors import DecodeError
from pipeline.ingest.video import decode_at, read_timeline
from tests.ingest.makers import number_of, picture, write_images, write_video


def numbers(uri, times):
    items = decode_at(uri, times)
    return [item if isinstance(item, DecodeError) else number_of(np.asarray(item)) for item in items]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.webm", "libvpx")]
)
def test_any_range_of_frames_can_be_decoded_alone(tmp_path, name, codec):
    uri = str(write_video(tmp_path / name, 40, codec=codec))
    timeline = read_timeline(uri)
    assert len(timeline.timestamps_ns) == 40
    assert (timeline.width, timeline.height) == (64, 48)
    assert set(np.diff(timeline.timestamps_ns)) == {100_000_000}
    for start, stop in ((0, 40), (0, 1), (11, 13), (12, 24), (17, 30), (39, 40)):
        assert numbers(uri, timeline.timestamps_ns[start:stop]) == list(range(start, stop))
    assert numbers(uri, timeline.timestamps_ns[3::7]) == list(range(3, 40, 7))
    assert numbers(uri, ()) == []


def test_a_rate_that_is_no_whole_number_of_nanoseconds_still_matches(tmp_path):
    uri = str(write_video(tmp_path / "a.mp4", 20, rate=30))
    times = read_timeline(uri).timestamps_ns
    assert times[1] == 33_333_333 and times[2] == 66_666_667
    assert numbers(uri, times[5:15]) == list(range(5, 15))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_that_ends_early_gives_its_frames_and_reports_how_many_are_missing(tmp_path, name):
    path = write_video(tmp_path / name, 40, index_first=name == "a.mp4")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    timeline = read_timeline(str(path))
    count = len(timeline.timestamps_ns)
    assert 20 < count < 35
    assert timeline.timestamps_ns == tuple(100_000_000 * number for number in range(count))
    (note,) = timeline.notes
    assert f"{40 - count} frames that it promises are not there" in note
    decoded = numbers(str(path), timeline.timestamps_ns)
    assert decoded[: count - 1] == list(range(count - 1))  # the last packet may be incomplete
    # A missing part is reported when only that part is requested.
    assert all("ends early" in str(item) for item in numbers(str(path), (10**10, 2 * 10**10)))


def test_a_header_that_announces_centuries_costs_no_time(tmp_path):
    path = write_video(tmp_path / "a.mkv", 12)
    data = path.read_bytes()
    at = data.index(b"00:00:01.2")
    path.write_bytes(data[:at] + b"99999999:00:00.0"[:10] + data[at + 10 :])
    timeline = read_timeline(str(path))
    assert len(timeline.timestamps_ns) == 12


def test_of_two_picture_streams_the_larger_is_used_with_a_note(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for width in (32, 64):
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, width * 3 // 4, "yuv420p"
            streams.append(stream)
        for number in range(6):
            for stream in streams:
                pixels = picture(number, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    timeline = read_timeline(str(path))
    assert (timeline.width, timeline.height) == (64, 48)
    assert "the largest of 2 picture streams" in timeline.notes[0]
    assert numbers(str(path), timeline.timestamps_ns) == list(range(6))


def test_a_repeated_time_drops_one_frame_with_a_note(tmp_path):
    source = write_video(tmp_path / "a.mp4", 12, codec="mpeg4")
    path = tmp_path / "b.mkv"
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.size:
                packet.stream = stream
                if packet.pts == read.streams.video[0].duration * 5 // 12:
                    packet.pts = packet.dts = packet.pts - read.streams.video[0].duration // 12
                written.mux(packet)
    timeline = read_timeline(str(path))
    assert len(timeline.timestamps_ns) == 11
    assert "1 video frames have the time of another one" in timeline.notes[0]


def test_recordings_joined_byte_by_byte_are_refused_with_what_to_do(tmp_path):
    first, second = (write_video(tmp_path / f"{name}.ts", 20) for name in "ab")
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DecodeError, match=r"times start again .* one by one"):
        read_timeline(str(path))


def test_a_damaged_stretch_is_reported_and_the_rest_decodes(tmp_path):
    path = write_video(tmp_path / "a.mp4", 48, key_every=6)
    timeline = read_timeline(str(path))
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    middle = begin + (len(data) - begin) * 2 // 5
    data[middle : middle + 1200] = bytes(1200)
    path.write_bytes(bytes(data))
    decoded = numbers(str(path), timeline.timestamps_ns)
    assert len(decoded) == 48
    bad = [number for number, item in enumerate(decoded) if isinstance(item, DecodeError)]
    assert bad and all(6 < number < 42 for number in bad)
    assert decoded[:6] == list(range(6)) and decoded[42:] == list(range(42, 48))


def test_a_file_without_pictures_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"this is not a video" * 100)
    with pytest.raises(DecodeError, match="cannot be opened as a video"):
        read_timeline(str(path))
    still = write_images(tmp_path / "d", 1)[0]
    still.rename(tmp_path / "b.mp4")
    assert len(read_timeline(str(tmp_path / "b.mp4")).timestamps_ns) == 1  # a single picture is a very short video
