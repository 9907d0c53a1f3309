"""The report as a browser gets it."""

import re
from dataclasses import replace

import pytest

from models.config import METHODS
from models.data.reader import open_data_folder
from models.evaluation.charts import iou_chart
from models.evaluation.evaluate import Agreement, Decision, FrameFigures, summarise
from models.evaluation.intervals import with_intervals
from models.evaluation.report import confusion, write_report
from models.evaluation.tables import classifier_row, compare_methods, effort_table, measure_with_effort


@pytest.fixture
def report(squares_data, make_pipeline, tmp_path):
    """Writes the report of an untrained pipeline that draws something; returns its text and the figures."""
    pipeline = make_pipeline(("square", "nothing"))
    pipeline.config = replace(pipeline.config, presence_threshold={"square": 0.0, "nothing": 0.0})
    folder = open_data_folder(squares_data)
    samples = folder.split("val")
    frames, efforts = measure_with_effort(pipeline, samples)
    figures = with_intervals(summarise(frames, pipeline), frames, folder.groups())

    def write(tables):
        if tables:
            figures["tables"] = {
                "classifiers": [classifier_row(figures, pipeline)],
                "effort": effort_table(efforts, figures),
                "methods": compare_methods(pipeline, samples),
            }
        write_report(tmp_path / "deep" / "report.html", pipeline, samples, frames, figures, "squares <val>")
        return (tmp_path / "deep" / "report.html").read_text(encoding="utf-8"), figures

    return write


def test_the_report_with_tables_needs_no_other_file(report):
    html, _ = report(tables=True)
    assert "automatic, then corrected" in html
    for method in METHODS:
        assert html.count(f'alt="{method}"') == 1  # 'nothing' is on no image, so it has no row in the contact sheet
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in html


def test_figures_and_pictures_are_in_it(report):
    html, figures = report(tables=False)
    assert "squares &lt;val&gt;" in html
    assert f"{figures['classes']['square']['accuracy']:.3f}" in html
    for which in ("worst", "best"):
        assert f"square, {which}: f" in html
    for step in ("image", "map", "trimap", "boundary", "mask", "truth"):
        assert html.count(f'alt="{step}"') == 2  # the worst and the best of the one class that is drawn
    assert "Annotation effort" not in html


def test_presence_is_counted_four_ways():
    decided = [(True, True), (True, False), (True, False), (False, True), (False, False), (False, False)]
    frames = [
        FrameFigures(str(i), 1.0, {}, {"a": Decision(predicted, present)})
        for i, (predicted, present) in enumerate(decided)
    ]
    assert confusion(frames, "a") == {"found": 1, "false": 2, "missed": 1, "absent": 2}


def test_charts_are_the_same_for_the_same_figures():
    frames = [FrameFigures(str(i), 1.0, {"a": Agreement(i / 10, 0, 0, 0)}, {}) for i in range(5)]
    assert iou_chart(frames, ["a", "b"]) == iou_chart(frames, ["a", "b"])
    assert iou_chart(frames, ["a", "b"]) != iou_chart(frames[1:], ["a", "b"])
