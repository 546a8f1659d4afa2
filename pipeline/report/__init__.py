"""Looking at results. In: published drives, other results of them, truth. Out: a static site, or viser live.

`write_site` makes pages that any web server serves: the scene is recorded with viser and played by its own client.
viser is an extra (`pip install '.[view]'`); NumPy, pyarrow, Pillow and matplotlib otherwise; no Ray, no torch.
"""

from pipeline.report.config import ReportConfig
from pipeline.report.live import start_live
from pipeline.report.site import make_server, write_site

__all__ = ["ReportConfig", "make_server", "start_live", "write_site"]
