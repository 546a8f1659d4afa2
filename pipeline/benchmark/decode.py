"""Measures decoding: JPEG files of KITTI's size to frames of the network's size, with ingest's functions, on one
core."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter

from pipeline.benchmark.report import Measured, Row, rate
from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import remap_of, view_of
from pipeline.ingest.preprocess import decode_image, frame_geometry, prepare_image, rectified_image, target_size
from pipeline.ingest.read_ahead import read_ahead

_TARGET_PER_S = 100
_OF_SPEED = 0.75  # a segment waits once for its first file
_SEGMENT = 30  # frames
_SLOWER = 1.1  # than opening, resizing and cropping with Pillow: what orientation, checks and cameras may add


@dataclass(frozen=True)
class DecodeBenchmark:
    """Frames per second that one core decodes and resizes."""

    frames: int = 200
    """Frames to decode."""
    width: int = 1242
    """Width of the source images."""
    height: int = 375
    """Height of the source images."""
    network_width: int = 518
    """Width of the network's frames."""
    lens: bool = True
    """Also measure the same frames with rectification of a barrel lens."""
    latency_ms: float = 50.0
    """Also measure one decoding task whose files arrive so many milliseconds after they are asked for."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name in ("frames", "width", "height", "network_width"):
            if getattr(self, name) < 14:
                raise ValueError(f"decode.{name} must be at least 14, not {getattr(self, name)}")
        if not 0 <= self.latency_ms <= 10_000:
            raise ValueError(f"decode.latency-ms must be between 0 and 10000, not {self.latency_ms:g}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Decode synthetic photographs (smooth shapes with noise, with files as large as KITTI's)."""
        height, width = target_size(self.width, self.height, self.network_width)
        files = [_photograph(self.width, self.height, seed) for seed in range(8)]
        say(f"decode: {self.frames} JPEG of {self.width}x{self.height}, {len(files[0]) / 1000:.0f} kB each")
        frame = np.empty((height, width, 3), np.uint8)
        spent = {"decode": 0.0, "resize": 0.0}
        begin, cpu = time.perf_counter(), time.process_time()
        for number in range(self.frames):
            start = time.perf_counter()
            image = decode_image(files[number % len(files)], expected_size=(self.width, self.height))
            image.load()
            middle = time.perf_counter()
            frame[:] = prepare_image(image, height, width)
            spent["decode"] += middle - start
            spent["resize"] += time.perf_counter() - middle
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        alone = self._by_pillow_alone(files, height, width)
        lensed = self._through_a_lens(files, height, width) if self.lens else None
        late = {ahead: self._from_a_late_store(files, height, width, ahead) for ahead in (True, False)}
        per_core = self.frames / cpu
        return Measured(
            {
                "frames": self.frames,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "frames_per_core_second": per_core,
                "pillow_frames_per_core_second": self.frames / alone,
                "lens_frames_per_core_second": None if lensed is None else self.frames / lensed,
                "late_store_frames_per_second": self.frames / late[True],
                "late_store_frames_per_second_one_by_one": self.frames / late[False],
                "decode_seconds": spent["decode"],
                "resize_seconds": spent["resize"],
                "file_bytes": len(files[0]),
                "network_size": [width, height],
                "threads": torch.get_num_threads(),
            },
            (
                Row(
                    "decode and resize, one core",
                    rate(self.frames, cpu, "JPEG"),
                    f"{_TARGET_PER_S} JPEG/s",
                    per_core >= _TARGET_PER_S,
                ),
                Row("CPU against Pillow alone", f"{cpu / alone:.2f} x", f"{_SLOWER:g} x", cpu / alone <= _SLOWER),
                Row("by the clock", rate(self.frames, seconds, "JPEG")),
                Row("of it decoding", f"{spent['decode'] / seconds:.0%}"),
                *([] if lensed is None else [Row("with rectification, one core", rate(self.frames, lensed, "JPEG"))]),
                Row(
                    f"one task, files {self.latency_ms:g} ms late, read ahead",
                    rate(self.frames, late[True], "JPEG"),
                    f"{_OF_SPEED:.0%} of the speed by the clock",
                    seconds >= _OF_SPEED * late[True],
                ),
                Row("the same, read one by one", rate(self.frames, late[False], "JPEG")),
            ),
        )

    def _by_pillow_alone(self, files: list[bytes], height: int, width: int) -> float:
        """CPU seconds for as many frames that are opened, resized and cropped without any check."""
        geometry = frame_geometry(self.width, self.height, height, width)
        size, left, top = (geometry.resized_width, geometry.resized_height), geometry.left, geometry.top
        frame = np.empty((height, width, 3), np.uint8)
        begin = time.process_time()
        for number in range(self.frames):
            image = Image.open(io.BytesIO(files[number % len(files)])).convert("RGB")
            image = image.resize(size, Image.Resampling.BICUBIC)
            frame[:] = np.asarray(image.crop((left, top, left + width, top + height)))
        return time.process_time() - begin

    def _from_a_late_store(self, files: list[bytes], height: int, width: int, ahead: bool) -> float:
        """Seconds for as many frames, in segments as a drive has them, from a store with latency."""

        def read(name: str) -> bytes:
            time.sleep(self.latency_ms / 1000)
            return files[int(name) % len(files)]

        begin = time.perf_counter()
        for start in range(0, self.frames, _SEGMENT):
            names = [str(number) for number in range(start, min(start + _SEGMENT, self.frames))]
            contents = read_ahead(names, read) if ahead else (partial(read, name) for name in names)
            for one in contents:
                image = decode_image(one(), expected_size=(self.width, self.height))
                prepare_image(image, height, width)
        return time.perf_counter() - begin

    def _through_a_lens(self, files: list[bytes], height: int, width: int) -> float:
        """CPU seconds for as many frames that are remapped instead of resized; the lookup table is made before."""
        focal = 0.6 * self.width
        middle = self.width / 2, self.height / 2
        lens = Camera("radtan", self.width, self.height, focal, focal, *middle, (-0.3, 0.09, 0.0, 0.0))
        view = view_of(lens, width, height)
        remap_of(view)
        frame = np.empty((height, width, 3), np.uint8)
        begin = time.process_time()
        for number in range(self.frames):
            image = decode_image(files[number % len(files)], expected_size=(self.width, self.height))
            image.load()
            frame[:] = rectified_image(image, view)
        return time.process_time() - begin


def _photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG of blurred shapes with noise, which has about as many bytes per pixel as a street in daylight."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(2)), np.int16)
    pixels = pixels + rng.normal(0, 12, pixels.shape[:2]).astype(np.int16)[..., None]
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
