"""A published drive in the formats of other programs, one file a format.

In: an open drive and a Selection (`ExportSource`). Out: files in a folder that appears whole or not at all
(`whole_folder`). Points stream through piece by piece; memory does not depend on their number.
"""

from pipeline.publish.exports.colmap import write_colmap
from pipeline.publish.exports.depth import FrameDepth, write_depth
from pipeline.publish.exports.destination import whole_folder
from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.geo_trajectory import write_geojson, write_geoparquet, write_kml
from pipeline.publish.exports.kitti import write_kitti
from pipeline.publish.exports.laz import check_laz, write_laz
from pipeline.publish.exports.nerfstudio import write_nerfstudio
from pipeline.publish.exports.ply import write_ply
from pipeline.publish.exports.source import ExportSource
from pipeline.publish.exports.tiles3d import write_tiles
from pipeline.publish.exports.tum import write_tum

__all__ = [
    "Earth",
    "ExportSource",
    "FrameDepth",
    "check_laz",
    "whole_folder",
    "write_colmap",
    "write_depth",
    "write_geojson",
    "write_geoparquet",
    "write_kitti",
    "write_kml",
    "write_laz",
    "write_nerfstudio",
    "write_ply",
    "write_tiles",
    "write_tum",
]
