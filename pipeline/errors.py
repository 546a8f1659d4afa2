"""The family of errors that the pipeline raises. Each is one line: what was expected, what came, which drive and frame.

    PipelineError
      DriveError            one drive's input or result; the other drives go on
        DecodeError         an image or a video frame
        AlignmentError      chunks that cannot be joined
        CheckpointError     weights of the network
      StorageError          a store (its kinds are in pipeline/storage/failures.py)
      ClusterError          Ray, or a group of its workers
      LeaseLostError        another run may have the drive

`retryable` says whether the same may succeed when it is done again after a while, though nobody changes anything.
`pipeline.storage.retry` is the only place that decides to try again, and it asks nothing else.
"""

from __future__ import annotations


class PipelineError(ValueError):
    """What a user can do something about. retryable: by default as its kind says; one error may say otherwise."""

    retryable = False

    def __init__(self, *said: object, retryable: bool | None = None) -> None:
        super().__init__(*said)
        if retryable is not None:
            self.retryable = retryable


class DriveError(PipelineError):
    """Something about one drive's input or result; other drives are not affected."""


class DecodeError(DriveError):
    """An image or a video frame cannot be decoded, or is not what its drive promised."""


class AlignmentError(DriveError):
    """Chunks cannot be joined into one trajectory."""


class CheckpointError(DriveError):
    """Weights cannot be read or do not fit the network."""


class StorageError(PipelineError):
    """A store does not answer, refuses, or lacks what was asked for. Never a bad frame."""

    retryable = True  # servers come back, disks get room, roles get their rights within minutes


class ClusterError(PipelineError):
    """Ray cannot be started or joined, or a group of its workers cannot work."""


class LeaseLostError(PipelineError):
    """This process may not go on with the drive: it did not renew its lease in time, or another has it."""
