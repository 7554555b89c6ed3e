"""A dry run tells how a log will be read, bad rows included, as values and as text."""

from __future__ import annotations

import json
from pathlib import Path

from tenuto.drive.dry_run import dry_run
from tenuto.drive.mapping import FileColumn
from tenuto.presets.video_events import events

LOG = """request_id,uid,item_id,request_ts_ms,position,click_ts_ms,label
r2,u,b,20000,0,,0
r1,u,a,10000,0,12500,1
r1,u,b,10000,1,9000,1
r1,u,c,10000,-1,,0

"""
MAPPING = {"user_id": FileColumn("uid")}

TEXT = """{path}: 3 rows, 2 requests, 1970-01-01T00:00:10.000+00:00 to 1970-01-01T00:00:20.000+00:00
read:
  request_id: base
  user_id from uid: base
  item_id: base
  position: base
  request_ts_ms [ms]: base
  click_ts_ms [ms]: event time of clicks
not read:
  label: not named: most columns of a log are outcomes
events:
  impressions: no column
  clicks (click_ts_ms): 2 rows, 66.7%; 1 before their request: these cannot count
  plays: no column
  likes: no column
skipped:
  1 × position: expected a whole number from 0 to 100000
first bad rows:
  row 5: position: '-1': expected a whole number from 0 to 100000
empty rows: 1
first row (row 2), slot 0 of:
  request_id: 'r2'
  user_id: 'u'
  query: ''
  ts_ms: 20000
  candidates: ['b']
  positions: [0]
  context: {{}}"""


def test_the_report_says_how_each_column_and_the_first_row_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    report = dry_run(path, events, mapping=MAPPING)
    assert report.render() == TEXT.format(path=path)
    assert json.loads(json.dumps(report.as_dict()))["skipped"] == report.skipped


def test_the_first_row_shows_its_own_events_only(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG.replace("r2,u,b,20000,0,,0\n", ""))
    report = dry_run(path, events, mapping=MAPPING)
    assert report.first_row is not None
    assert [one["fields"]["item_id"] for one in report.first_row["events"]] == ["a"]


def test_a_log_of_bad_rows_only_is_reported_and_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,request_ts_ms\nu,i,noon\n")
    report = dry_run(path, events)
    assert (report.rows, report.requests, report.start, report.first_row) == (0, 0, None, None)
    reason = "request_ts_ms: expected a whole number of milliseconds ≥ 0"
    assert report.skipped == {reason: 1}
