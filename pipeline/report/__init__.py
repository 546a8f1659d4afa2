"""Shows results. In: published drives, other results of them, ground truth. Out: a static site, or a live viser viewer.

`write_site` makes pages that any web server can serve: the scene is recorded with viser and played by viser's client.
viser is an extra (`pip install '.[view]'`). No Ray, no torch.
"""

from pipeline.report.config import ReportConfig
from pipeline.report.live import start_live
from pipeline.report.site import make_server, write_site

__all__ = ["ReportConfig", "make_server", "start_live", "write_site"]
