"""What can be wrong with a drive, said in one line: what was expected, what came, which drive and frame."""


class DriveError(ValueError):
    """Something about one drive's input or result; other drives are not affected."""


class DecodeError(DriveError):
    """An image or a video frame cannot be decoded, or is not what its drive promised."""


class StorageError(DriveError):
    """A store does not answer, refuses, or lacks what was asked for. Never a bad frame."""


class AlignmentError(DriveError):
    """Chunks cannot be joined into one trajectory."""


class RayStartError(DriveError):
    """Ray could not be started or joined: the whole run cannot begin, whatever its drives."""
