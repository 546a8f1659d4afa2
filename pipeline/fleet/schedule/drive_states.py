"""The states of a drive in a run and the events that change them. The diagram in README.md is made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.fleet.records.ledger import FINAL, STATES, State

DriveEvent = Literal[
    "planned",
    "left alone",
    "begun",
    "put back",
    "staged",
    "published",
    "failed",
    "quarantined",
    "lost to another run",
    "run stopped",
]


@dataclass(frozen=True)
class Transition:
    """The effect of an event. before: the states in which it can happen; after: the state that it leads to."""

    before: tuple[State, ...]
    after: State
    meaning: str


TRANSITIONS: dict[DriveEvent, Transition] = {
    "planned": Transition(("queued",), "queued", "a group can take it"),
    "left alone": Transition(
        ("queued",), "skipped", "its result exists, it failed before, another run has it, or --limit leaves it out"
    ),
    "begun": Transition(("queued",), "running", "a group passes it through the network"),
    "put back": Transition(
        ("queued", "running", "staged"),
        "queued",
        "store, memory, process or node failed, or its group ended",
    ),
    "staged": Transition(("running",), "staged", "its predictions are on storage; the finisher takes it"),
    "published": Transition(("staged",), "published", "its manifest is written"),
    "failed": Transition(("queued", "running", "staged"), "failed", "damaged input, or all tries are used up"),
    "quarantined": Transition(("queued", "running", "staged"), "quarantined", "its process died max_attempts times"),
    "lost to another run": Transition(
        ("queued", "running", "staged"), "skipped", "its lease ran out and another run took it"
    ),
    "run stopped": Transition(("queued", "running", "staged"), "queued", "the next run does it"),
}
"""Every event that changes a drive's state. A drive in a final state stays there; later events have no effect."""


def next_state(state: State, event: DriveEvent) -> State:
    """The state after an event. Raises ValueError where the event cannot happen in this state."""
    if state in FINAL:
        return state
    transition = TRANSITIONS[event]
    if state not in transition.before:
        raise ValueError(f"a drive that is {state} cannot be {event}")
    return transition.after


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued: planned"]
    for event, transition in TRANSITIONS.items():
        if event != "planned":
            lines += [f"    {before} --> {transition.after}: {event}" for before in transition.before]
    lines += [f"    {state} --> [*]" for state in STATES if state in FINAL]
    rows = [f"| {event} | {', '.join(t.before)} | {t.after} | {t.meaning} |" for event, t in TRANSITIONS.items()]
    return "\n".join([*lines, "```", "", "| event | from | to | when |", "| --- | --- | --- | --- |", *rows])
