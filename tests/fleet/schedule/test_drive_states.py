"""The table of a drive's states: each state can be reached, each can end, and no event leads out of a final state."""

import pytest

from pipeline.fleet.records.ledger import FINAL, STATES
from pipeline.fleet.schedule.drive_states import TRANSITIONS, diagram, next_state


def behind(state):
    return {t.after for t in TRANSITIONS.values() if state in t.before}


def reached_from(state):
    found, look = {state}, [state]
    while look:
        new = behind(look.pop()) - found
        found |= new
        look += new
    return found


def test_every_state_can_be_reached_from_the_first_and_can_lead_to_a_final_state():
    assert reached_from("queued") == set(STATES)
    for state in set(STATES) - set(FINAL):
        assert reached_from(state) >= set(FINAL)


def test_no_event_leads_out_of_a_final_state_and_none_is_refused_there():
    assert [event for event, t in TRANSITIONS.items() if set(t.before) & set(FINAL)] == []
    for state in FINAL:
        assert {next_state(state, event) for event in TRANSITIONS} == {state}


def test_only_a_staged_drive_is_published_and_only_a_running_drive_is_staged():
    assert TRANSITIONS["published"].before == ("staged",)
    assert TRANSITIONS["staged"].before == ("running",)
    assert TRANSITIONS["begun"].before == ("queued",)


@pytest.mark.parametrize(("state", "event"), [("queued", "published"), ("running", "begun"), ("staged", "left alone")])
def test_an_event_that_cannot_happen_is_named(state, event):
    with pytest.raises(ValueError, match=f"is {state} cannot be {event}"):
        next_state(state, event)


def test_the_diagram_has_every_arrow_of_the_table():
    drawn = diagram()
    for event, transition in TRANSITIONS.items():
        for before in transition.before if event != "planned" else ("[*]",):
            assert f"{before} --> {transition.after}: {event}" in drawn
