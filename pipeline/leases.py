"""Who works on a drive: one small object a drive, `<output>/_leases/<drive_id>.json`, with a deadline that is moved on.

Two runs on one output so never write one drive at a time. A lease that its owner no longer renews is taken over after
its deadline, at once where the owner was a process of this machine that is gone. Results do not rest on it alone:
staged files have their try's own folder, and who lost a lease stops before the next thing that others would see.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import TracebackType

from pipeline import storage
from pipeline.common.sightings import Sightings
from pipeline.common.visible_text import visible
from pipeline.common.waits import say_wait
from pipeline.errors import DriveError, LeaseLostError, StorageError
from pipeline.storage import NotFoundError

LEASES_FOLDER = "_leases"
_RENEWED_AT_A_TIME = 16  # a store answers in some ms to some 100 ms, and a run may hold a thousand
_LONGEST_S = 3600.0  # that a lease which is not renewed is waited for, whatever length it says of itself
_LOOK_EVERY_S = 2.0  # at a lease that is waited for
_CLOCK_SKEW_S = 10.0  # machines' clocks differ by less; a lease is taken over only so much after its deadline


Guard = Callable[[], None]
"""Called before every step that others see: raises LeaseLostError once the drive may be another run's."""


@dataclass(frozen=True)
class Claim:
    """What a lease says. machine and pid: whose it is; until: seconds since 1970; working: whether the network is at
    it, or it waits for its turn; deaths: how many owners before this one in a row died while working on it; length_s:
    of the lease, 0 where an older program wrote it."""

    owner: str
    host: str
    machine: str
    pid: int
    until: float
    working: bool
    deaths: int
    nonce: str
    length_s: float = 0.0

    def to_bytes(self) -> bytes:
        """The text of the lease."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_over(self) -> bool:
        """Whether its owner is known to be gone, or has not renewed it in time."""
        if self.machine == machine_id() and not _is_alive(self.pid):
            return True
        return time.time() > self.until + _CLOCK_SKEW_S


@dataclass(frozen=True)
class HeldElsewhere:
    """The drive is another's: who and until when, if it is not renewed. left_s: seconds that this process waits for
    that at the most, whatever the other's clock says."""

    claim: Claim
    left_s: float = float("inf")

    @property
    def said(self) -> str:
        """Why it cannot be had, and when it can."""
        return (
            f"run {visible(self.claim.owner)[:80]} on {visible(self.claim.host)[:80]} is working on it; if that run is "
            f"gone, it is free again in {self.free_in_s:.0f} s"
        )

    @property
    def free_in_s(self) -> float:
        """Seconds until it may be taken over, if it is not renewed."""
        return min(max(self.claim.until + _CLOCK_SKEW_S - time.time(), 0.0), max(self.left_s, 0.0))


class Lease:
    """A drive that is this process's until it says otherwise. deaths: of owners before, in a row; working: what the
    next renewal says of it."""

    def __init__(self, uri: str, drive_id: str, text: bytes, claim: Claim, valid_s: float) -> None:
        self.uri, self.drive_id, self.deaths = uri, drive_id, claim.deaths
        self.text = text
        self.claim = claim
        self.valid_until = time.monotonic() + valid_s
        self.working = False
        self.lost = False
        self.lock = threading.Lock()

    def guard(self) -> None:
        """Raises LeaseLostError where the drive may be another's by now."""
        if self.lost or time.monotonic() > self.valid_until:
            raise LeaseLostError(
                f"drive {self.drive_id}: this run's claim on it ran out (it was not heard of for too long); "
                "the drive is left to whoever works on it now"
            )


class Leases:
    """The leases of one process on one output; a thread renews them. Use as a context: leaving gives all back."""

    def __init__(self, output: str, owner: str, lease_s: float) -> None:
        self._folder = storage.join(output, LEASES_FOLDER)
        self._owner = owner
        self._lease_s = lease_s
        self._held: dict[str, Lease] = {}
        self._seen = Sightings(storage.cache_folder() / "leases", machine_id())
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, name="leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.give_back(list(self._held.values()))
        if storage.is_local(self._folder):
            with contextlib.suppress(OSError):  # others have leases there
                os.rmdir(self._folder)

    def work_on(self, lease: Lease) -> None:
        """Note that the network begins with the drive: should this process die now, that may be the reason.

        Raises LeaseLostError, StorageError.
        """
        lease.working = True
        self._move_on(lease)
        lease.guard()

    def rest(self, lease: Lease) -> None:
        """The network is through with the drive: a death of this process is not the drive's doing any more. Said with
        the next renewal."""
        lease.working = False

    def keep(self, lease: Lease) -> None:
        """Go on with a drive: a lease that ran out while the store was away is renewed, if nobody took the drive.

        Raises LeaseLostError, StorageError.
        """
        if time.monotonic() > lease.valid_until:
            self._move_on(lease)
        lease.guard()

    def take(self, drive_id: str) -> Lease | HeldElsewhere:
        """Claim a drive. Raises StorageError where the store does not answer."""
        uri = storage.join(self._folder, storage.check_drive_id(drive_id) + ".json")
        expected, before = _read(uri)
        # one of our own that we do not hold: the store was away when it was given back
        left = before is not None and before.owner == self._owner and drive_id not in self._held
        if before is not None and not before.is_over and not left:
            left_s = self._left_s(drive_id, expected, before.length_s)
            if left_s > 0:
                return HeldElsewhere(before, left_s)
        begun = time.monotonic()
        claim = self._claim(0 if before is None else before.deaths + (before.working and not left))
        text = claim.to_bytes()
        if not storage.compare_and_swap(uri, expected, text):
            _, winner = _read(uri)
            if winner is None or winner.nonce != claim.nonce:  # else it was done, though the answer was lost
                return HeldElsewhere(winner if winner is not None else claim, self._lease_s + _CLOCK_SKEW_S)
        if before is not None:
            self._seen.forget(storage.join(self._folder, drive_id))
        lease = Lease(uri, drive_id, text, claim, self._lease_s - (time.monotonic() - begun))
        with self._lock:
            self._held[drive_id] = lease
        return lease

    def _left_s(self, drive_id: str, text: bytes | None, length_s: float) -> float:
        """Seconds until a lease that is not renewed is over by this machine's clock: owners renew four times in a
        lease's length, so one that stays as it is for all of it is nobody's, though its owner's clock be days ahead."""
        seen_s = self._seen.unchanged_s(storage.join(self._folder, drive_id), text or b"")
        return max(self._lease_s, min(length_s, _LONGEST_S)) + _CLOCK_SKEW_S - seen_s

    def take_when_free(self, drive_id: str) -> Lease:
        """Claim a drive that is all there is to do: a lease that may be a dead run's is waited for, which is said.

        Raises DriveError where another run works on the drive (it is alive on this machine, or renews its lease while
        this one waits); StorageError.
        """
        held = taken = self.take(drive_id)
        while isinstance(taken, HeldElsewhere):
            # alive, or it would be over; or it was renewed
            if taken.claim.machine == machine_id() or taken.claim.nonce != held.claim.nonce:
                raise DriveError(f"drive {drive_id}: {taken.said}")
            if taken is held:
                say_wait(
                    f"drive {visible(drive_id)}: run {visible(taken.claim.owner)[:80]} on "
                    f"{visible(taken.claim.host)[:80]} has it, and is looked at whether it renews its lease",
                    taken.free_in_s,
                )
            time.sleep(min(max(taken.free_in_s, 0.05), _LOOK_EVERY_S))
            taken = self.take(drive_id)
        return taken

    def drive_ids(self) -> list[str]:
        """Drives that have a lease, whoever's and however old. Raises StorageError."""
        try:
            names = storage.list_files(self._folder).names
        except NotFoundError:
            return []
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def release(self, lease: Lease) -> None:
        """Give a drive back; a store that does not answer is left to the deadline."""
        with self._lock:
            self._held.pop(lease.drive_id, None)
        with lease.lock:
            lease.lost = True
            with contextlib.suppress(StorageError):
                storage.compare_and_swap(lease.uri, lease.text, None)

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Release many at once: a process that was told to stop has seconds."""
        self._at_a_time(self.release, leases)

    def say_at_rest(self, leases: Sequence[Lease]) -> None:
        """`rest`, for many, said at once."""

        def say(lease: Lease) -> None:
            self.rest(lease)
            self._try_to_move_on(lease)

        self._at_a_time(say, leases)

    @staticmethod
    def _at_a_time(work: Callable[[Lease], None], leases: Sequence[Lease]) -> None:
        if len(leases) < 2:
            for lease in leases:
                work(lease)
            return
        with ThreadPoolExecutor(_RENEWED_AT_A_TIME, thread_name_prefix="lease") as pool:
            list(pool.map(work, leases))

    def _claim(self, deaths: int, working: bool = False) -> Claim:
        until, nonce = time.time() + self._lease_s, uuid.uuid4().hex
        return Claim(
            self._owner, socket.gethostname(), machine_id(), os.getpid(), until, working, deaths, nonce, self._lease_s
        )

    def _renew_on(self) -> None:
        while not self._stop.wait(self._lease_s / 4):
            with self._lock:
                held = list(self._held.values())
            self._at_a_time(self._try_to_move_on, held)

    def _try_to_move_on(self, lease: Lease) -> None:
        with contextlib.suppress(StorageError):  # tried again, until it is too late
            self._move_on(lease)

    def _move_on(self, lease: Lease) -> None:
        with lease.lock:
            if lease.lost:
                return
            begun = time.monotonic()
            claim = self._claim(lease.deaths, lease.working)
            text = claim.to_bytes()
            if not storage.compare_and_swap(lease.uri, lease.text, text):
                _, now = _read(lease.uri)
                if now is None or now.owner != claim.owner:
                    lease.lost = True
                    return
                text, claim = now.to_bytes(), now  # an earlier move was done though its answer was lost
            lease.text, lease.claim, lease.valid_until = text, claim, begun + self._lease_s


def remote_guard(output: str, drive_id: str, owner: str) -> Guard:
    """A guard for another process that works for the owner of a lease: asks the store, at most once in its time. It
    raises StorageError while the claim ran out but is nobody else's: another try may go on."""
    uri = storage.join(output, LEASES_FOLDER, drive_id + ".json")
    until = 0.0

    def guard() -> None:
        nonlocal until
        if time.time() > until:
            _, claim = _read(uri)
            if claim is None or claim.owner != owner:
                raise LeaseLostError(f"drive {drive_id}: this run's claim on it ran out while it was published")
            if time.time() > claim.until:  # nobody took it yet: the owner renews it and tries again, or loses it
                raise StorageError(f"drive {drive_id}: this run's claim on it was not renewed in time")
            until = claim.until

    return guard


def machine_id() -> str:
    """Names this machine since it was started, and its world of process numbers (a container has its own)."""
    return _machine_id()


@lru_cache(maxsize=1)
def _machine_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex  # no Linux: nobody's processes can be looked up


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _read(uri: str) -> tuple[bytes | None, Claim | None]:
    try:
        text = storage.read_small(uri, storage.SMALL_BYTES)
    except NotFoundError:
        return None, None
    if not text:
        return None, None
    try:
        return text, storage.parse_record(text, Claim, uri)
    except storage.DamagedError:
        return text, Claim("unknown", "unknown", "", 0, 0.0, False, 0, "")  # no lease of ours: over long ago
