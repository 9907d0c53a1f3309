import pytest

from backend.jobs.outlook import Outlook
from backend.web.dashboard import formats
from backend.web.dashboard.overview import (
    accepted_tasks,
    annotator_rows,
    class_names,
    class_rows,
    colours,
    expected_gain,
    iou_by_tasks,
    iou_by_version,
    kept_by_class,
    kept_by_version,
    kept_in_all,
    kept_rows,
    minutes_saved,
    short,
    standing,
)


def version(number, accepted=10, **classes):
    metrics = {
        "mean_iou": 0.5,
        "frames": 2,
        "classes": {name: {"frames": 1, "iou": iou} for name, iou in classes.items()},
    }
    data = {"train": accepted - 2, "held_out": 2}
    return {"version": f"p3-r{number:03d}-lite0", "classes": list(classes), "data": data, "metrics": metrics}


def counted(**report):
    return {"report": report}


def kept(drawn, iou=0.5, unchanged=0, added=0):
    return {"drawn": drawn, "iou": iou, "unchanged": unchanged, "added": added}


def test_accepted_tasks_are_those_trained_on_and_those_held_out():
    assert accepted_tasks(version(1, accepted=12)) == 12
    assert accepted_tasks({"version": "p3-r001", "accepted": 7}) == 7
    assert accepted_tasks({"version": "p3-r001"}) is None


def test_a_class_keeps_its_place_when_others_come():
    names = class_names([version(1, b=0.1, a=0.2), version(2, c=0.3, a=0.2)], [counted(classes={"d": 0, "a": 3})])
    assert names == ["b", "a", "c", "d"]


def test_what_a_class_lacks_is_said():
    jobs = [counted(), counted(classes={"none": 0, "few": 3, "many": 50, "unseen": 20}), counted(classes={"old": 9})]
    shown = version(1, none=None, few=0.4, many=0.9)
    rows = {row.name: row for row in class_rows(["none", "few", "old", "many", "unseen"], shown, jobs)}
    assert list(rows) == ["none", "few", "many", "unseen"]  # the labelling config has no "old" any more
    assert {name: row.lacks for name, row in rows.items()} == {
        "none": "no accepted task shows it",
        "few": "few: 7 more would help",
        "many": "",
        "unseen": "not measured: none held out",
    }
    assert (rows["many"].number, rows["many"].accepted, rows["many"].held_out, rows["many"].iou) == (3, 50, 1, 0.9)


def test_a_weak_class_is_called_so():
    (row,) = class_rows(["weak"], version(1, weak=0.24), [counted(classes={"weak": 40})])
    assert row.lacks.startswith("weak: below 0.5")


def done(number, accepted=10, **card):
    return {**version(number, accepted, a=0.4), "state": "served", **card}


@pytest.mark.parametrize(
    ("state", "evidence", "badge", "says"),
    [
        ("served", {}, "served", "p3-r001-lite0 is served."),
        ("served", {"classes": {"a": {"state": "weak", "iou": 0.24}}}, "doubtful", "Weak: a (IoU 0.24)"),
        ("served", {"classes": {"a": {"state": "not measured"}}}, "doubtful", "Not measured: a"),
        ("served", {"missing": "about 5 more"}, "doubtful", "promoted by hand; about 5 more"),
        ("candidate", {"missing": "about 5 more would tell"}, "candidate", "is a candidate; about 5 more would tell"),
        ("retired", {}, "retired", "was served before, and is not any more"),
    ],
)
def test_a_finished_training_is_shown_as_it_stands_now(state, evidence, badge, says):
    """After a rollback the card no longer says that the version is served, and a weak one is no success."""
    training = {"state": "done", "version": "p3-r001-lite0", "message": "p3-r001-lite0 was promoted"}
    how, sentence = standing(training, [done(1, state=state, evidence=evidence)])
    assert how == badge
    assert says in sentence


def test_a_training_that_failed_says_why():
    assert standing({"state": "failed", "version": None, "reason": "no room"}, []) == ("failed", "no room")


def test_the_expected_gain_follows_the_projects_own_versions():
    """From 10 to 20 tasks it gained 0.1; as many times more tasks gain as much again."""
    first = done(1, accepted=10, state="retired")
    second = done(2, accepted=20, parent="p3-r001-lite0", before={"mean_iou": 0.4})
    assert expected_gain([first, second], 20) == pytest.approx(0.1)
    assert expected_gain([first, second], 0) is None
    assert expected_gain([second], 20) is None
    worse = {**second, "before": {"mean_iou": 0.9}}
    assert expected_gain([first, worse], 20) == 0.0


def test_masks_kept_are_told_by_class_and_by_annotator():
    jobs = [counted(annotators={"user 2": {"a": kept(1, 0.2)}, "ann@x.org": {"a": kept(3, 0.9), "b": kept(1, 0.5)}})]
    assert [(row.version, row.drawn) for row in annotator_rows(jobs)] == [("ann@x.org", 4), ("user 2", 1)]
    rows = kept_rows([counted(kept={"v1": {"a": kept(2, 0.5)}, "v2": {"a": kept(2, 1.0, 2)}})])
    assert [(row.version, row.drawn, row.iou, row.unchanged) for row in kept_by_class(["a", "b"], rows)] == [
        ("a", 4, 0.75, 2)
    ]


def test_classes_have_the_colours_that_label_studio_gives_them():
    jobs = [counted(), counted(colours={"a": "#ff0000", "old": "#000000"})]
    assert colours(["a", "b"], None, jobs) == {"a": "#ff0000"}
    assert colours(["a", "b"], Outlook(colours={"b": "green"}), jobs) == {"b": "green"}


def test_classes_without_any_training_lack_nothing_that_is_known():
    assert [row.lacks for row in class_rows(["a"], None, [])] == [""]


def test_kept_masks_are_summed_over_classes_and_the_fullest_count_is_believed():
    """Predictions that were deleted since are missing from the newest count."""
    jobs = [
        counted(
            kept={"p3-r002-lite0": {"a": kept(4, 0.75, 2, 1), "b": kept(1, 0.0)}, "oct-lite0": {"a": kept(2, 0.1)}}
        ),
        counted(kept={"oct-lite0": {"a": kept(10, 0.5, 3)}, "p3-r001-lite0": {"a": kept(0)}}),
        counted(),
    ]
    rows = kept_rows(jobs)
    assert [(row.version, row.drawn, row.iou, row.unchanged, row.added) for row in rows] == [
        ("oct-lite0", 10, 0.5, 3, 0),
        ("p3-r002-lite0", 5, pytest.approx(0.6), 2, 1),
    ]
    in_all = kept_in_all(rows)
    assert (in_all.drawn, in_all.unchanged) == (15, 5)
    assert in_all.iou == pytest.approx((10 * 0.5 + 5 * 0.6) / 15)


def test_versions_that_drew_are_in_the_order_of_their_numbers():
    drew = ["p3-r010-x", "p3-r009-x", "p3-r1000-x", "zebra"]
    rows = kept_rows([counted(kept={name: {"a": kept(1)} for name in drew})])
    assert [row.version for row in rows] == ["zebra", "p3-r009-x", "p3-r010-x", "p3-r1000-x"]


def test_minutes_are_shown_only_where_the_time_of_a_mask_is_set():
    in_all = kept_in_all(kept_rows([counted(kept={"v": {"a": kept(10, 0.6)}})]))
    assert minutes_saved(in_all, None) is None
    assert minutes_saved(in_all, 2.0) == pytest.approx(12.0)
    assert minutes_saved(kept_in_all([]), 2.0) is None


def test_charts_show_each_class_over_versions_and_over_accepted_tasks():
    versions = [version(1, 10, a=0.2, b=None), {"version": "p3-r002", "error": "damaged"}, version(3, 40, a=0.4, b=0.1)]
    by_version, by_tasks = iou_by_version(["a", "b"], versions), iou_by_tasks(["a", "b"], versions)
    assert by_version.summary == "a from 0.200 (r001) to 0.400 (r003); b 0.100 (r003)"
    assert by_tasks.summary == "a from 0.200 (r001, 10 tasks) to 0.400 (r003, 40 tasks); b 0.100 (r003, 40 tasks)"
    assert iou_by_version(["a"], []) is None


def test_versions_without_figures_by_class_are_drawn_as_their_mean():
    cards = [{"version": "p3-r001", "metrics": {"mean_iou": 0.5}}, {"version": "p3-r002", "metrics": {"mean_iou": 0.6}}]
    assert iou_by_version([], cards).summary == "mean from 0.500 (r001) to 0.600 (r002)"
    assert iou_by_tasks([], cards) is None


def test_kept_masks_are_drawn_over_the_versions_that_drew_them():
    rows = kept_rows(
        [counted(kept={"oct": {"a": kept(2, 0.3)}, "p3-r001-x": {"a": kept(1, 0.9), "b": kept(0, added=2)}})]
    )
    assert kept_by_version(["a", "b"], rows).summary == "a from 0.300 (oct) to 0.900 (r001)"


@pytest.mark.parametrize(
    ("name", "said"), [("p3-r007-lite0", "r007"), ("p12-r1000", "r1000"), ("oct-lite0", "oct-lite0"), ("x", "x")]
)
def test_version_names_are_shortened_to_their_numbers(name, said):
    assert short(name) == said


def test_figures_and_times_are_written_for_people():
    assert [formats.figure(value) for value in (None, 0.12345, 1.0)] == ["–", "0.123", "1.000"]
    assert [formats.change(value) for value in (0.0461, -0.02)] == ["+0.046", "−0.020"]
    assert [formats.percent(*pair) for pair in ((0, 0), (1, 3))] == ["–", "33 %"]
    assert [formats.duration(s) for s in (-1, 45.4, 90, 3541, 7500)] == ["0 s", "45 s", "2 min", "59 min", "2 h 05 min"]
    assert [formats.time_left(s) for s in (0, 59, 90)] == ["less than a minute left"] * 2 + ["about 2 min left"]
    assert formats.moment("2026-11-03T08:05:00+02:00") == "3 Nov 2026, 06:05"
    assert formats.moment("2026-11-03T08:05:00") == "3 Nov 2026, 08:05"
    assert formats.moment("once") == "once"
    assert formats.seconds_between("2026-11-03T08:05:00+00:00", "2026-11-03T08:06:30+00:00") == 90
