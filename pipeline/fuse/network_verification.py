"""Candidates -> links by the network and by features together. Every verdict has the reasons of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipeline.fuse.candidates import GROUND
from pipeline.fuse.evidence import Evidence, Verified
from pipeline.fuse.joint_chunks import JointChunks
from pipeline.fuse.joint_link import JointLink
from pipeline.fuse.joint_verdict import CONFIRMED, judged
from pipeline.fuse.link import Link
from pipeline.fuse.verification import Verifier


def verify_by_network(
    features: Sequence[Verified], chunks: JointChunks, verifier: Verifier, evidence: Evidence
) -> list[Verified]:
    """The verdicts on candidates whose verdicts by features alone are given, in their order. Those that `evidence`
    knows are not predicted again; new ones are added to it as they are made, so a run that died continues there.

    A candidate whose joint chunk cannot be read or predicted keeps the verdict by features, with that reason; the next
    run tries it again. verifier: compares pictures of the same drives. Raises GroupError where the group cannot run,
    LeaseLostError, StorageError.
    """
    answers = list(features)
    new: list[int] = []
    for place, one in enumerate(features):
        known = evidence.known(one.candidate, chunks.kind)
        if known is not None:
            answers[place] = known
        elif not one.candidate.opposite and one.candidate.by != GROUND:
            new.append(place)

    def told(number: int, measured: JointLink | str) -> None:
        known = features[new[number]]

        def link() -> Link:
            assert isinstance(measured, JointLink)
            return verifier.between_instants(known.candidate, measured.second_from_first, measured.covariance)

        verdict = judged(known, measured, link, partial(verifier.verify, known.candidate, CONFIRMED))
        answers[new[number]] = verdict
        evidence.keep(verdict, chunks.kind)

    try:
        for number, reason in chunks.measure([features[place].candidate for place in new], told).items():
            one = features[new[number]]
            answers[new[number]] = replace(one, reason=f"{one.reason}; no joint chunk: {reason}", lasting=False)
    finally:
        evidence.write()
    return answers
