"""Writes a published drive in the formats of other programs: one file for each format; `formats` has their table.

In: an open drive and a Selection (`ExportSource`). Out: files in a folder that appears complete or not at all
(`whole_folder`). Points are read and written piece by piece, so memory does not depend on their number.
"""

from pipeline.publish.exports.depth import FrameDepth
from pipeline.publish.exports.destination import whole_folder
from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.formats import FORMATS, ExportFormat, ExportTask
from pipeline.publish.exports.source import ExportSource

__all__ = ["FORMATS", "Earth", "ExportFormat", "ExportSource", "ExportTask", "FrameDepth", "whole_folder"]
