"""KITTI odometry (Geiger et al. 2012): 11 drives with poses of the left camera."""

from __future__ import annotations

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence
from pipeline.evaluation.sources import open_truth
from pipeline.synthetic.read import list_drives


def _find(data: str) -> tuple[str, ...]:
    return list_drives(data)


def _read(data: str, name: str) -> Sequence:
    folder = storage.join(data, "sequences", name)
    if not storage.exists(folder):
        raise DriveError(f"KITTI {name}: it has poses but no frames in {storage.redacted(folder)}")
    return Sequence(name, folder, open_truth(folder).frames)


KITTI = Benchmark(
    name="kitti",
    title="KITTI odometry",
    source="https://www.cvlibs.net/datasets/kitti/eval_odometry.php (color, calibration, ground truth poses)",
    layout="sequences/00/image_2/000000.png, sequences/00/{calib,times}.txt and poses/00.txt ... 10",
    find=_find,
    read=_read,
    names=tuple(f"{number:02d}" for number in range(11)),
    left_out="01",
    published={
        "Scal3R": {"ate": 14.55, "rte": 4.61},
        "VGGT-Long": {"ate": 25.94, "rte": 9.67},
        "TTT3R": {"ate": 177.73, "rte": 68.55},
        "CUT3R": {"ate": 209.78, "rte": 73.65},
        "Scal3R, subset": {"ate": 13.70, "rte": 5.99, "rre": 1.17},
        "Scal3R, subset, no-gcs": {"ate": 15.80, "rte": 7.01, "rre": 1.28},
        "Scal3R, subset, no-gcm": {"ate": 19.00, "rte": 7.03, "rre": 1.30},
    },
    published_note="mean of 00 to 10; 'subset' are the sequences of its ablation. One RTX 4090, 758 frames: 300.76 s, "
    "2.53 frames/s, 10.32 GB",
)
