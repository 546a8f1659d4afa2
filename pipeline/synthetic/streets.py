"""Dimensions of streets that houses, cars, markings and routes share, in metres."""

LANE_WIDTH = 3.25
PARKING_WIDTH = 2.2
# least distance of parked cars, trees and lamps from a crossing, so that turning cars have room
CROSSING_CLEARANCE = 9.0
