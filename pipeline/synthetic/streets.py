"""Widths that houses, cars, paint and routes must agree on, in metres."""

LANE_WIDTH = 3.25
PARKING_WIDTH = 2.2
# no parked car, tree or lamp nearer than this to a crossing: turning cars need the room
CROSSING_CLEARANCE = 9.0
