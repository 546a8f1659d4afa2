"""READ FIRST for jobs.fuse. Published drives -> a version of the city: candidates, verification, solution, tiles.

One process does it and holds the lease of the city; Ray tasks compare frames and write tiles for it. It writes into the
folder of a new version, the manifest last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.run_id import new_run_id
from pipeline.errors import DriveError
from pipeline.fuse.area import shown_drives
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.city import DamagedCityError, PublishedCity
from pipeline.fuse.city_files import CityManifest, city_uri, missing_file, readable_versions, remove_leftovers
from pipeline.fuse.city_schema import CITY_SCHEMA_VERSION
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.evidence import Evidence, Verified
from pipeline.fuse.joint_chunks import JointChunks, clear_joint_staging
from pipeline.fuse.lost_drives import LostDriveError
from pipeline.fuse.network_verification import verify_by_network
from pipeline.fuse.new_version import EARTH, placed, write_version
from pipeline.fuse.new_version import Standing as PlacedCity
from pipeline.fuse.opposite import OPPOSITE, opposite_pairs, pair_of, without_linked
from pipeline.fuse.own_positions import contradicted
from pipeline.fuse.plan import Plan, plan_of
from pipeline.fuse.progress import RunningFuse
from pipeline.fuse.proposals import proposed, proposed_before
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.search import candidates_of
from pipeline.fuse.solve import City, solve
from pipeline.fuse.standing import Standing, StandingDrive
from pipeline.fuse.tasks import Tasks
from pipeline.fuse.usable_drives import read_drives
from pipeline.fuse.verification import Verifier
from pipeline.leases import Guard, Leases
from pipeline.publish.exports.laz import check_laz

CITY_LEASE = "_city"  # a drive may be named "city"
_MANY = 64  # in a city of so many drives only new drives, and those linked with them, are solved
_PUBLISHED_AGAIN = 2  # times that a drive may be published again during a run
_ROUNDS = 3  # verifications and solutions: each solution proposes candidates for the next round
_LINK_COLUMNS = ("first_drive", "first_frame", "second_drive", "second_frame", "accepted", "chi2", "verified")


@dataclass(frozen=True)
class Fused:
    """The result of a run. manifest: of the version (None with --plan); drives, candidates, links, accepted (links),
    tiles_written: counts; notes: for the user; plan: with --plan."""

    manifest: CityManifest | None
    drives: int
    candidates: int
    links: int
    accepted: int
    tiles_written: int
    notes: tuple[str, ...]
    plan: Plan | None = None


def run_fuse(config: FuseConfig, reporter: Reporter, tasks: Tasks | None = None) -> Fused:
    """Fuse the drives of an output into a new version of its city.

    A drive that cannot be read is left out with a note, unless config.drive names it; a version of the city that
    cannot be read is not built upon. If a run is killed, the next one uses the pairs of frames that it had compared.

    tasks: that compare descriptors and frames, eliminate areas of a large city, write tiles and compare them; None:
    this process does all.

    Raises DriveError (no output, no usable drive, a named drive that cannot be read, or a city of a newer schema),
    ValueError (COPC without laspy; no GPUs where they are asked for), CheckpointError, GroupError, LeaseLostError,
    StorageError.
    """
    output = storage.absolute(config.output)
    if not storage.exists(output):
        raise DriveError(f"no output at {storage.redacted(output)}; check --output")
    config, missing = _with_copc_decided(config)
    if config.plan:
        return _without_lost(reporter, partial(_planned, output, config, reporter, missing))
    run_id = new_run_id()
    with storage.held_root(output, make=False), Leases(output, run_id, config.lease_s) as leases:
        lease = leases.take_when_free(CITY_LEASE)
        told = RunningFuse(reporter, output, run_id)
        try:
            guard = partial(leases.keep, lease)
            fused = _without_lost(told, partial(_fuse, output, config, told, guard, missing, tasks, run_id))
        except BaseException as error:
            stopped = "interrupted; start jobs.fuse again, it continues there"
            said = stopped if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())[:300]
            told.end("failed", said or type(error).__name__)
            raise
        told.end("finished", f"city {'' if fused.manifest is None else fused.manifest.version}, {fused.drives} drives")
        return fused


@dataclass
class _Lost:
    """What was lost during a run. drives: by name, the keys of results, each with the reason; city: why the last
    version is not built upon, None while it is."""

    drives: dict[str, dict[str, str]] = field(default_factory=dict)
    city: str | None = None


def _without_lost(reporter: Reporter, action: Callable[[_Lost], Fused]) -> Fused:
    """Fuse; if a drive or the last version turns out to be unreadable, again without it."""
    lost = _Lost()
    while True:
        try:
            return action(lost)
        except LostDriveError as error:
            # A drive that was published again meanwhile is used with its new key, twice at most.
            known = lost.drives.setdefault(error.drive_id, {})
            if error.key in known or len(known) > _PUBLISHED_AGAIN:
                raise
            known[error.key] = str(error)
            reporter.say(f"{error}: this run begins again; verdicts so far are kept")
        except DamagedCityError as error:
            if lost.city is not None:
                raise
            said = str(error).rpartition("; ")[0]  # without the advice to do what this run does
            lost.city = f"the last version of the city cannot be used, so all of it is made again: {said}"


def _planned(output: str, config: FuseConfig, reporter: Reporter, missing: Sequence[str], lost: _Lost) -> Fused:
    known, _, damaged = _last_version(output, lost)
    with reporter.timed("read"):
        drives, notes = read_drives(output, config, reporter, None if known is None else known.origin, lost.drives)
    candidates, more = _first_candidates(output, config, drives, known)
    plan = plan_of(output, config, drives, candidates)
    return Fused(None, len(drives), len(candidates), 0, 0, 0, (*missing, *damaged, *notes, *more), plan)


def _last_version(output: str, lost: _Lost) -> tuple[CityManifest | None, tuple[CityManifest, ...], tuple[str, ...]]:
    """The version that this run builds upon, None without one; the complete ones, the newest first; and notes. It is
    not built upon if its tables have another schema, or a file of it is damaged or gone."""
    versions, damaged = readable_versions(output)
    notes = [f"a damaged version of the city is not used: {one}" for one in damaged]
    newest = versions[0] if versions else None
    if lost.city is None and newest is not None and (path := missing_file(output, newest)) is not None:
        lost.city = f"{path} of the last version is missing or has another size, so the whole city is made again"
    if lost.city is not None:
        return None, versions, (*notes, lost.city)
    usable = newest is not None and newest.schema_version == CITY_SCHEMA_VERSION
    return newest if usable else None, versions, tuple(notes)


def _with_copc_decided(config: FuseConfig) -> tuple[FuseConfig, tuple[str, ...]]:
    """The settings with `copc` decided by whether laspy is installed, if it was None; and a note if there will be no
    COPC. Raises ValueError if COPC is demanded and cannot be written."""
    if config.copc is False:
        return config, ()
    try:
        check_laz()
    except ValueError as error:
        if config.copc:
            raise
        return replace(config, copc=False), (f"tiles are written as Parquet only, without COPC: {error}",)
    return replace(config, copc=True), ()


@dataclass(frozen=True, eq=False)
class _Run:
    """What the steps of a run share. known: the last version, if its tables have the present schema."""

    output: str
    config: FuseConfig
    reporter: RunningFuse
    guard: Guard
    tasks: Tasks | None
    drives: Sequence[FusibleDrive]
    known: CityManifest | None
    evidence: Evidence


@dataclass(frozen=True, eq=False)
class _Solution:
    """The last round's solution. verified: the verdicts of all rounds; metres: city units in a metre, by name of the
    frame."""

    verified: Sequence[Verified]
    city: City
    standing: PlacedCity
    metres: Mapping[str, float]


def _fuse(
    output: str,
    config: FuseConfig,
    reporter: RunningFuse,
    guard: Guard,
    missing: Sequence[str],
    tasks: Tasks | None,
    run_id: str,
    lost: _Lost,
) -> Fused:
    with reporter.timed("read"):
        known, versions, damaged = _last_version(output, lost)
        drives, notes = read_drives(output, config, reporter, None if known is None else known.origin, lost.drives)
        guard()
        remove_leftovers(output, *versions)  # files of runs that died
        clear_joint_staging(city_uri(output))
        run = _Run(output, config, reporter, guard, tasks, drives, known, Evidence(output, drives))
    with reporter.timed("candidates"):
        reporter.stage("candidates")
        candidates, more = _first_candidates(output, config, drives, known, tasks)
        notes = (*missing, *damaged, *notes, *more)
    for note in notes:
        reporter.say(note)
    solution = _solved_in_rounds(run, candidates, run_id)
    verified = _with_opposite_pairs(run, solution)
    against = len({pair_of(one.candidate) for one in verified if OPPOSITE in one.reason})
    if against:
        notes = (*notes, f"{against:,} pairs of drives went through the same street in opposite directions")
        reporter.say(notes[-1])
    unread = [one for one in solution.verified if not one.lasting]
    if unread:
        notes = (*notes, _not_compared(unread, len(solution.verified)))
        reporter.say(notes[-1])
    city = solution.city
    doubts = contradicted(drives, city)
    gone = [] if known is None else sorted(set(known.keys) - {drive.drive_id for drive in drives})
    if gone:
        doubts.append(f"of the last version's drives these are no longer in the city: {shown_drives(gone)}")
    notes = (*notes, *doubts)
    for note in doubts:
        reporter.say(note)
    before = versions[0] if versions else None
    with reporter.timed("tiles"):
        manifest, written = write_version(
            output, config, drives, verified, city, solution.standing, known, before, notes, guard, reporter, tasks
        )
    guard()
    run.evidence.tidy()
    compared, accepted = len(solution.verified), int(city.accepted.sum())
    return Fused(manifest, len(drives), compared, len(city.links), accepted, written, manifest.notes)


def _first_candidates(
    output: str,
    config: FuseConfig,
    drives: Sequence[FusibleDrive],
    known: CityManifest | None,
    tasks: Tasks | None = None,
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Candidates of the first round, with those that the last version's solution proposed, and notes."""
    candidates, notes = candidates_of(drives, config, tasks)
    if known is not None:
        candidates += proposed_before(PublishedCity(output, known), drives, candidates)
    return candidates, notes


def _solved_in_rounds(run: _Run, candidates: list[Candidate], run_id: str) -> _Solution:
    """Verify candidates and solve the city, again with those that each solution proposes."""
    reporter, drives, config = run.reporter, run.drives, run.config
    verifier = Verifier(drives)
    chunks = JointChunks(run.output, config.model, drives, run_id, run.guard, reporter) if config.network else None
    verified: list[Verified] = []
    last: City | None = None
    for n in range(_ROUNDS):
        with reporter.timed("verify"):
            done = _counted(reporter, run.guard, len(candidates))
            found = verifier.verify_all(candidates, run.evidence, done, run.tasks)
        if chunks is not None:
            with reporter.timed("network"):
                reporter.stage("network")
                found = verify_by_network(found, chunks, verifier, run.evidence)
        verified += found
        with reporter.timed("solve"):
            reporter.stage("solve")
            last = city = _solved(drives, verified, run.known, run.output, last, run.tasks)
            standing = placed(drives, city, config, run.known, run.output)
            metres = {name: frame.tile / config.tile for name, frame in standing.frames.items()}
        if n + 1 < _ROUNDS:
            with reporter.timed("candidates"):
                candidates = proposed(drives, standing.placements, metres, verified, config, n == 0, run.tasks)
        if not candidates:
            break
    return _Solution(verified, city, standing, metres)


def _with_opposite_pairs(run: _Run, solution: _Solution) -> list[Verified]:
    """All verdicts, with those on pairs of drives that the solution shows in opposite directions without a link."""
    verified = without_linked(solution.verified)
    linked = [n for n, one in enumerate(verified) if one.link is not None]
    rejected = frozenset(n for n, good in zip(linked, solution.city.accepted, strict=True) if not good)
    leads = [one.rig.reference for one in run.drives]
    return verified + opposite_pairs(solution.standing.placements, solution.metres, verified, leads, rejected)


def _not_compared(unread: Sequence[Verified], candidates: int) -> str:
    said = f"{len(unread):,} of {candidates:,} pairs of frames could not be compared: {unread[0].reason}"
    return f"{said}{'; ...' if len(unread) > 1 else ''} (--images-from names the folder of images that were moved)"


def _counted(reporter: RunningFuse, guard: Guard, total: int) -> Callable[[], None]:
    """Called after each comparison."""

    def compared() -> None:
        guard()
        reporter.advance("verify", 1, total, "pairs of frames")

    return compared


def _solved(
    drives: Sequence[FusibleDrive],
    verified: Sequence[Verified],
    known: CityManifest | None,
    output: str,
    last: City | None,
    tasks: Tasks | None,
) -> City:
    """Solve the city. With 64 or more drives it is that of the last version near new drives and links; otherwise the
    solution begins with that of the last round, with fewer links."""
    before = None if last is None else begun_with(last)
    if known is not None and len(drives) >= _MANY:
        before = standing_in(PublishedCity(output, known), drives, verified)
    fixes = {n: drive.fixes for n, drive in enumerate(drives) if drive.fixes is not None}
    times = {n: drive.time_s for n, drive in enumerate(drives) if drive.fixes is not None and drive.time_s is not None}
    origin = None if known is None else known.origin
    joined = [drive.joined for drive in drives]
    links = [one.link for one in verified if one.link is not None]
    map_areas = None if tasks is None else tasks.mapped
    return solve(joined, links, fixes=fixes, frame_time_s=times, origin=origin, standing=before, map_areas=map_areas)


def begun_with(city: City) -> Standing:
    """A solution of the same drives, with fewer links at the end of their list, as the start of the next one."""
    drives = {n: StandingDrive(one.city_from_camera, one.depth_scale) for n, one in enumerate(city.drives)}
    return Standing(drives, {n: (one.accepted, one.chi2) for n, one in enumerate(city.links)}, again=True)


def standing_in(city: PublishedCity, drives: Sequence[FusibleDrive], verified: Sequence[Verified]) -> Standing:
    """The solution of a version, for drives whose results have not changed and for links between two of them, counted
    among the links of `verified`. Raises DriveError and StorageError where the version's tables cannot be read."""
    placed = city.placements()
    same = {
        n: StandingDrive(one.city_from_camera[drive.rig.reference], one.scale[drive.rig.reference], one.frame == EARTH)
        for n, drive in enumerate(drives)
        if city.manifest.keys.get(drive.drive_id) == drive.key
        and (one := placed.get(drive.drive_id)) is not None
        and np.array_equal(one.frame_index, drive.frame_index)
    }
    columns = [city.links[name].to_pylist() for name in _LINK_COLUMNS]
    verdicts = {row[:4]: row[4:] for row in zip(*columns, strict=True) if row[6]}
    judged = {}
    for n, pair in enumerate(one.candidate for one in verified if one.link is not None):
        if pair.first in same and pair.second in same:
            ends = [drives[pair.first].drive_id, int(drives[pair.first].frame_index[pair.first_frame])]
            ends += [drives[pair.second].drive_id, int(drives[pair.second].frame_index[pair.second_frame])]
            verdict = verdicts.get(tuple(ends))
            if verdict is not None:
                judged[n] = (bool(verdict[0]), float(verdict[1]))
    return Standing(same, judged)
