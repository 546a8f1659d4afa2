"""Cameras as cars have them: lens models, calibration files, rectification, orientation and masks.

In: calibration files of other programs, frames as they are stored. Out: pinhole pictures for the network, and the
way back to the user's pixels. Imports no stage.
"""
