"""The errors that the pipeline raises. Each message is one line: drive and frame, what was expected, what was found.

    PipelineError
      DriveError            one drive's input or result; the other drives go on
        DecodeError         an image or a video frame
        AlignmentError      chunks that cannot be joined
        CheckpointError     weights of the network
      StorageError          a store (its kinds are in pipeline/storage/failures.py)
      ClusterError          Ray, or a group of its workers
      LeaseLostError        another run may have the drive

`retryable` says whether the same action may succeed later although nobody changes anything. Only
`pipeline.storage.retry` decides to try again, and it uses only this.
"""

from __future__ import annotations


class PipelineError(ValueError):
    """An error that a user can act on. retryable: by default that of the class; a single error may differ."""

    retryable = False

    def __init__(self, *said: object, retryable: bool | None = None) -> None:
        super().__init__(*said)
        if retryable is not None:
            self.retryable = retryable


class DriveError(PipelineError):
    """An error in one drive's input or result; other drives are not affected."""


class DecodeError(DriveError):
    """An image or a video frame cannot be decoded, or differs from the other frames of its drive."""


class AlignmentError(DriveError):
    """Chunks cannot be joined into one trajectory."""


class CheckpointError(DriveError):
    """Weights cannot be read or do not fit the network."""


class StorageError(PipelineError):
    """A store does not answer, refuses access, or lacks a file. Never used for a bad frame."""

    retryable = True  # servers restart, disks get free space, roles get their rights within minutes


class ClusterError(PipelineError):
    """Ray cannot be started or joined, or a group of its workers cannot work."""


class LeaseLostError(PipelineError):
    """This process must not go on with the drive: it did not renew its lease in time, or another process has it."""
