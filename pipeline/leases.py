"""Leases: which run works on a drive. One small object for each drive, `<output>/_leases/<drive_id>.json`.

With leases two runs on one output never write the same drive at the same time. The run that has a lease, its holder,
renews it: it moves the deadline in the lease forward. Another run takes a lease over after its deadline, or at once
where the holder was a process of this machine that has ended. Results are safe without leases too: every attempt stages
its files in a folder of its own, and a run that lost a lease stops before it writes anything that others see.
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
from typing import Annotated

from pydantic import Field

from pipeline import storage
from pipeline.common.sightings import Sightings
from pipeline.common.visible_text import visible
from pipeline.common.waits import say_wait
from pipeline.errors import DriveError, LeaseLostError, StorageError
from pipeline.storage import NotFoundError

LEASES_FOLDER = "_leases"
_HOLDER_IN_FILE = "owner"  # the holder's name in the stored file: older programs read and write it
_RENEWED_AT_A_TIME = 16  # a store answers in some ms to some 100 ms, and a run may hold a thousand leases
_LONGEST_S = 3600.0  # longest wait for a lease that is not renewed, whatever length it states
_LOOK_EVERY_S = 2.0  # time between two looks at a lease that is waited for
_CLOCK_SKEW_S = 10.0  # clocks of machines differ by less; a lease is taken over only this long after its deadline


Guard = Callable[[], None]
"""Called before every step that others see: raises LeaseLostError once the drive may be another run's."""


@dataclass(frozen=True)
class Claim:
    """The contents of a lease. holder: the run that has it; machine and pid: the holder's process; until: the deadline
    in seconds since 1970; working: whether the network works on the drive now (else the drive waits for its turn);
    deaths: how many holders before this one, in a row, died while they worked on the drive; length_s: length of the
    lease, 0 where an older program wrote it."""

    holder: Annotated[str, Field(validation_alias=_HOLDER_IN_FILE)]
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
        values = asdict(self)
        return json.dumps({_HOLDER_IN_FILE: values.pop("holder"), **values}).encode()

    @property
    def is_over(self) -> bool:
        """Whether its holder is known to have ended, or has not renewed it in time."""
        if self.machine == machine_id() and not _is_alive(self.pid):
            return True
        return time.time() > self.until + _CLOCK_SKEW_S


@dataclass(frozen=True)
class HeldElsewhere:
    """Another run holds the drive: which one, and until when unless it renews the lease. left_s: the most seconds
    that this process waits for the deadline, whatever the clock of the other machine says."""

    claim: Claim
    left_s: float = float("inf")

    @property
    def said(self) -> str:
        """Why the drive cannot be taken, and when it can."""
        return (
            f"run {visible(self.claim.holder)[:80]} on {visible(self.claim.host)[:80]} is working on it; if that run "
            f"is gone, it is free again in {self.free_in_s:.0f} s"
        )

    @property
    def free_in_s(self) -> float:
        """Seconds until the lease may be taken over, if it is not renewed."""
        return min(max(self.claim.until + _CLOCK_SKEW_S - time.time(), 0.0), max(self.left_s, 0.0))


class Lease:
    """A drive that this process holds until it releases it. deaths: of the holders before, in a row; working: what the
    next renewal writes into the lease."""

    def __init__(self, uri: str, drive_id: str, text: bytes, claim: Claim, valid_s: float) -> None:
        self.uri, self.drive_id, self.deaths = uri, drive_id, claim.deaths
        self.text = text
        self.claim = claim
        self.valid_until = time.monotonic() + valid_s
        self.working = False
        self.lost = False
        self.lock = threading.Lock()

    def guard(self) -> None:
        """Raises LeaseLostError where another run may have the drive by now."""
        if self.lost or time.monotonic() > self.valid_until:
            raise LeaseLostError(
                f"{_said(self.drive_id)}: this run's claim on it ran out (it was not heard of for too long); "
                "it is left to whoever works on it now"
            )


class Leases:
    """The leases of one process on one output; a thread renews them. Use as a context: leaving it releases all."""

    def __init__(self, output: str, holder: str, lease_s: float) -> None:
        self._folder = storage.join(output, LEASES_FOLDER)
        self._holder = holder
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
        """Note that the network begins with the drive: if this process dies now, the drive may be the reason.

        Raises LeaseLostError, StorageError.
        """
        lease.working = True
        self._move_on(lease)
        lease.guard()

    def rest(self, lease: Lease) -> None:
        """Note that the network is done with the drive: if this process dies from now on, the drive is not the reason.
        The next renewal writes it."""
        lease.working = False

    def keep(self, lease: Lease) -> None:
        """Go on with a drive: a lease that ran out while the store did not answer is renewed if no run took the drive.

        Raises LeaseLostError, StorageError.
        """
        if time.monotonic() > lease.valid_until:
            self._move_on(lease)
        lease.guard()

    def take(self, drive_id: str) -> Lease | HeldElsewhere:
        """Claim a drive. Raises StorageError where the store does not answer."""
        storage.check_drive_id(drive_id.removeprefix("_"))  # what begins with "_" is no drive: the city of an output
        uri = storage.join(self._folder, drive_id + ".json")
        expected, before = _read(uri)
        # a lease of this run that this process does not hold: the store did not answer when it was released
        left = before is not None and before.holder == self._holder and drive_id not in self._held
        if before is not None and not before.is_over and not left:
            left_s = self._left_s(drive_id, expected, before.length_s)
            if left_s > 0:
                return HeldElsewhere(before, left_s)
        begun = time.monotonic()
        claim = self._claim(0 if before is None else before.deaths + (before.working and not left))
        text = claim.to_bytes()
        if not storage.compare_and_swap(uri, expected, text):
            _, winner = _read(uri)
            if winner is None or winner.nonce != claim.nonce:  # else the write was done, though the answer was lost
                return HeldElsewhere(winner if winner is not None else claim, self._lease_s + _CLOCK_SKEW_S)
        if before is not None:
            self._seen.forget(storage.join(self._folder, drive_id))
        lease = Lease(uri, drive_id, text, claim, self._lease_s - (time.monotonic() - begun))
        with self._lock:
            self._held[drive_id] = lease
        return lease

    def _left_s(self, drive_id: str, text: bytes | None, length_s: float) -> float:
        """Seconds until a lease that is not renewed is over by this machine's clock. A holder renews its lease four
        times in the lease's length. A lease that does not change for its whole length therefore has no holder any more,
        even if the holder's clock is days ahead."""
        seen_s = self._seen.unchanged_s(storage.join(self._folder, drive_id), text or b"")
        return max(self._lease_s, min(length_s, _LONGEST_S)) + _CLOCK_SKEW_S - seen_s

    def take_when_free(self, drive_id: str) -> Lease:
        """Claim the only drive of a run: where another run's lease may be left by a dead process, wait for its deadline
        and say so.

        Raises DriveError where another run works on the drive (it is alive on this machine, or renews its lease while
        this one waits); StorageError.
        """
        held = taken = self.take(drive_id)
        while isinstance(taken, HeldElsewhere):
            # the holder is alive on this machine (else the lease would be over), or it renewed the lease
            if taken.claim.machine == machine_id() or taken.claim.nonce != held.claim.nonce:
                raise DriveError(f"{_said(drive_id)}: {taken.said}")
            if taken is held:
                say_wait(
                    f"{_said(drive_id)}: run {visible(taken.claim.holder)[:80]} on "
                    f"{visible(taken.claim.host)[:80]} has it; this run looks whether that run renews its lease",
                    taken.free_in_s,
                )
            time.sleep(min(max(taken.free_in_s, 0.05), _LOOK_EVERY_S))
            taken = self.take(drive_id)
        return taken

    def drive_ids(self) -> list[str]:
        """Drives that have a lease, of any run and of any age. Raises StorageError."""
        try:
            names = storage.list_files(self._folder).names
        except NotFoundError:
            return []
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def release(self, lease: Lease) -> None:
        """Release a drive. Where the store does not answer, the lease ends at its deadline."""
        with self._lock:
            self._held.pop(lease.drive_id, None)
        with lease.lock:
            lease.lost = True
            with contextlib.suppress(StorageError):
                storage.compare_and_swap(lease.uri, lease.text, None)

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Release many drives in parallel: a process that was told to stop has only seconds."""
        self._at_a_time(self.release, leases)

    def say_at_rest(self, leases: Sequence[Lease]) -> None:
        """`rest` for many drives, and write it immediately."""

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
            self._holder, socket.gethostname(), machine_id(), os.getpid(), until, working, deaths, nonce, self._lease_s
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
                if now is None or now.holder != claim.holder:
                    lease.lost = True
                    return
                text, claim = now.to_bytes(), now  # an earlier move was done though its answer was lost
            lease.text, lease.claim, lease.valid_until = text, claim, begun + self._lease_s


def _said(name: str) -> str:
    return f"the {name[1:]}" if name.startswith("_") else f"drive {visible(name)}"


def remote_guard(output: str, drive_id: str, holder: str) -> Guard:
    """A guard for another process that works for the holder of a lease.

    It reads the lease again only after the deadline that it last read. It raises LeaseLostError where another run has
    the lease, and StorageError while the lease has run out and no other run took it: another try may go on.
    """
    uri = storage.join(output, LEASES_FOLDER, drive_id + ".json")
    until = 0.0

    def guard() -> None:
        nonlocal until
        if time.time() > until:
            _, claim = _read(uri)
            if claim is None or claim.holder != holder:
                raise LeaseLostError(f"drive {drive_id}: this run's claim on it ran out while it was published")
            if time.time() > claim.until:  # the holder renews it and tries again, or loses it
                raise StorageError(f"drive {drive_id}: this run's claim on it was not renewed in time")
            until = claim.until

    return guard


def machine_id() -> str:
    """An id of this machine since its last start and of its process-id namespace (each container has its own)."""
    return _machine_id()


@lru_cache(maxsize=1)
def _machine_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex  # not Linux: no process can be looked up


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
        return text, Claim("unknown", "unknown", "", 0, 0.0, False, 0, "")  # not a lease of this program: over long ago
