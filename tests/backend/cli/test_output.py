"""Progress in logs and pipes."""

import os

import pytest

from backend.cli.output import ProgressLines, progress_bar, write_json


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_a_line_for_every_stage_and_one_every_ten_seconds(capsys):
    clock = Clock()
    move = ProgressLines("training", clock)
    for clock.seconds in (0, 3, 9.9, 10, 12, 21):
        move(int(clock.seconds), 30, "loss 0.5", "classifier")
    move(0, 4, stage="refiner")
    move(1, 4, stage="refiner")
    assert capsys.readouterr().err.splitlines() == [
        "training: classifier: 0/30 loss 0.5",
        "training: classifier: 10/30 loss 0.5",
        "training: classifier: 21/30 loss 0.5",
        "training: refiner: 0/4",
    ]


def test_a_pipe_gets_lines_and_no_bar(capsys):
    with progress_bar("evaluating") as move:
        move(1, 2)
        move(2, 2)
    captured = capsys.readouterr()
    assert captured.err == "evaluating: 1/2\n"
    assert captured.out == ""


def test_a_result_that_does_not_fit_on_the_disk_is_not_there_by_halves(tmp_path, monkeypatch):
    def full(path, text, **_):
        path.write_bytes(text[:5].encode())
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*r\.json'"):
        write_json(tmp_path / "r.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []
