"""Texts of users in figures and requests: names with dollar signs, and impossible paths."""

import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from pipeline.evaluation import trajectory_figure
from pipeline.report import make_server
from pipeline.report.figures import _drawn

NAMES = [r"$\foo{$", "$x_1$", "100 $ a drive", r"\$", "a_b^c", "$$"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_dollar_signs_is_drawn_unchanged(name, tmp_path):
    def draw(axes):
        axes.plot([0, 1], [0, 1], label=name)
        axes.set_title(name)
        axes.legend()

    assert b"<svg" in _drawn(draw)
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, 0, 3] = np.arange(8)
    trajectory_figure(poses, poses, str(tmp_path / "figure.png"), name)


@pytest.mark.parametrize("path", ["/%00", "/drives/%00.json", "/%00/../site.css", "/a%00b?x=1"])
def test_a_path_that_no_file_can_have_is_not_found(path, tmp_path, capsys):
    (tmp_path / "site").mkdir()
    server = make_server(tmp_path / "site", "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as said:
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=20)
        assert said.value.code == 404
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "Traceback" not in capsys.readouterr().err
