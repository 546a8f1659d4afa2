"""The report of a run is one file that loads nothing else, says why drives failed, and is usable with 10,000 rows."""

import json
import re
from dataclasses import replace

import pytest

from pipeline.common.visible_text import visible
from pipeline.fleet.records.ledger import RunState
from pipeline.fleet.status.run_report import render_run_report
from tests.fleet.runs import NASTY, made_up_run
from tests.report.browser import chromium


def rows_of(page: str) -> dict:
    return json.loads(re.search(r'id="rows">(.*?)</script>', page, re.S).group(1))


def test_every_drive_is_in_the_page_with_state_reason_and_seconds():
    run = made_up_run()
    table = rows_of(render_run_report(run))
    at = {name: index for index, name in enumerate(table["columns"])}
    assert [cells[at["drive"]] for cells in table["rows"]] == sorted(run.rows)
    for cells in table["rows"]:
        row = run.rows[cells[at["drive"]]]
        assert (cells[at["state"]], cells[at["reason"]], cells[at["frame"]]) == (
            row.state,
            row.reason and visible(row.reason),
            row.frame,
        )
        assert cells[at["forward s"]] == (round(row.seconds["forward"], 2) if row.seconds else None)


def test_the_page_makes_no_requests_and_texts_from_inputs_are_escaped():
    page = render_run_report(made_up_run(300))
    assert not re.search(r"""(src|href)=|url\(|@import|https?://(?!www\.w3\.org)""", page)
    assert "default-src 'none'" in page
    assert NASTY not in page and "<script>document.title" not in page
    assert any(cells[rows_of(page)["columns"].index("reason")] == visible(NASTY) for cells in rows_of(page)["rows"])


def test_failures_are_grouped_by_kind_and_the_command_to_retry_is_shown():
    page = render_run_report(made_up_run(300))
    table = page.split('id="failures"', 1)[1].split("</table>", 1)[0]
    assert table.count("<tr>") == 1 + 3  # a heading and three kinds, although every reason names another drive
    assert "jobs.reconstruct --input s3://fleet/ --output s3://out/ --retry-failed" in page


@pytest.mark.parametrize("state", ["running", "lost"])
def test_a_run_that_has_no_drive_yet_has_a_page(state):
    run = made_up_run(0, state)
    assert f"{run.info.run_id}: {state}" in render_run_report(RunState(replace(run.info, gpus=0), {}))


@pytest.fixture
def browser():
    """A real browser, or a clear reason to skip."""
    with chromium() as found:
        yield found


@pytest.mark.slow
def test_ten_thousand_drives_are_sorted_and_searched_in_a_browser(browser, tmp_path):
    run = made_up_run(10_000)
    path = tmp_path / "report.html"
    path.write_text(render_run_report(run))
    assert path.stat().st_size < 4_000_000
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    assert page.title() == f"Run {run.info.run_id}" and errors == [] and asked == [path.as_uri()]
    first = page.locator("#drives tbody tr").first.locator("td")
    assert first.nth(1).inner_text() == "failed"  # drives that need attention come first
    page.get_by_role("button", name="points", exact=True).click()
    page.get_by_role("button", name="points ▲").click()
    most = max(run.rows.values(), key=lambda row: row.points)
    assert most.points == run.rows[first.nth(0).inner_text()].points
    page.get_by_label("Find").fill("__00042")
    assert page.locator("#count").inner_text() == "1 of 10000 drives"
    page.get_by_label("Find").fill("")
    page.get_by_label("State").select_option("quarantined")
    expected = len(run.in_state("quarantined"))
    assert page.locator("#count").inner_text().startswith(f"{expected} of 10000 drives")
    page.close()
