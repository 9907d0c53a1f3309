"""Networks computed by OpenVINO: the same masks as PyTorch's, kept beside the weights, and a way back."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models.compiled as compiled
import models.conversion as conversion
import models.prepare as prepare
import models.probes as probes
import models.pytorch_networks as pytorch_networks
import models.runtime as runtime
from models.checkpoint import Card
from models.config import PipelineConfig
from models.data.files import read_image
from models.data.reader import open_data_folder
from models.families import Runtime
from models.families import load_model as load_any
from models.phantom import KINDS, render_phantom
from models.pipeline import Pipeline, load_pipeline, save_pipeline
from models.prepare import prepare_apart
from models.prompt import Click, Prompt
from models.seen import Output
from models.starter import STARTERS
from models.wall import WallView

pytest.importorskip("openvino")


SERVED = """
import sys
from pathlib import Path

from models.families import load_model
from models.phantom import render_phantom
from models.prompt import Click, Prompt

model = load_model(Path(sys.argv[1]), runtime="openvino", afterwards=lambda: None)
image = render_phantom(0, 128).image
print(len(model.predict([image])))
print(len(model.prompt(model.embed(image), Prompt((Click(64, 64, True),), ()), "a").mask))
print("torch" in sys.modules, "timm" in sys.modules)
"""


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """PyTorch computes in float32, as what others are compared with."""
    for module in ("pytorch_networks", "activation_maps"):
        monkeypatch.setattr(f"models.{module}.autocast", lambda device, **_: nullcontext())


@pytest.fixture
def checkpoint(tmp_path, make_pipeline):
    """A small untrained model, saved."""
    pipeline = make_pipeline(classes=("a", "b"))
    save_pipeline(pipeline, tmp_path / "v1", Card("v1", ["a", "b"], "", ""))
    return tmp_path / "v1"


@pytest.fixture(scope="module")
def light():
    """The shipped light model and its converted networks."""
    pipeline = load_pipeline(STARTERS["light"])
    return pipeline, graphs_of(pipeline)


def load_model(directory: Path, *, runtime: Runtime, afterwards: Callable[[], None] | None = None) -> Pipeline:
    loaded = load_any(directory, runtime=runtime, afterwards=afterwards)
    assert isinstance(loaded, Pipeline)
    return loaded


def by_openvino(loaded):
    """Whether nothing is left to PyTorch."""
    return runtime.PYTORCH not in loaded.networks.runtimes.values()


def graphs_of(pipeline):
    return pytorch_networks.graphs_of(pipeline.classifier, pipeline.refiner)


def random(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def masks_by(pipeline, networks, images):
    """The masks of every class, one list per image, drawn by `networks`."""
    ours, pipeline.networks = pipeline.networks, networks
    drawn = [[step.mask for step in pipeline.steps([image])[0]] for image in images]
    pipeline.networks = ours
    return drawn


def least_iou(expected, found):
    """Over the classes: IoU of masks, over all images."""
    pairs = [list(zip(*both, strict=True)) for both in zip(expected, found, strict=True)]  # image -> class -> two masks
    shared = np.sum([[(one & other).sum() for one, other in classes] for classes in pairs], axis=0)
    all_of_both = np.sum([[(one | other).sum() for one, other in classes] for classes in pairs], axis=0)
    seen = all_of_both > 0
    assert seen.any(), "no class is on these images"
    return (shared[seen] / all_of_both[seen]).min()


def test_masks_on_phantoms_are_those_of_pytorch(light):
    pipeline, graphs = light
    images = [render_phantom(seed, 512).image for seed in range(2)]
    expected = masks_by(pipeline, pipeline.networks, images)
    name = "OpenVINO float32"
    assert least_iou(expected, masks_by(pipeline, graphs.uniform(name), images)) >= runtime.MIN_AGREEMENT[name]
    # Caps of two synthetic frames are few pixels; what counts is tested on real frames.
    assert least_iou(expected, masks_by(pipeline, graphs.uniform(f"{name} and bfloat16"), images)) > 0.98


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", list(STARTERS))
def test_masks_on_real_frames_are_those_of_pytorch(oct_data, model):
    """Each class for itself, over the held-out frames: in float32, and with every part in each precision whose
    measurement lets it through, whether it is faster here or not."""
    pipeline = load_pipeline(STARTERS[model])
    graphs = graphs_of(pipeline)
    measured = pytorch_networks.measure(graphs, pipeline.classifier, pipeline.refiner)
    accepted = {
        part: [name for name, least in runtime.MIN_AGREEMENT.items() if found.get(name, 0.0) >= least]
        for part, found in measured.agreement.items()
    }
    assert all("OpenVINO float32" in names for names in accepted.values())
    images = [read_image(sample.image) for sample in open_data_folder(oct_data).split("val")]
    expected = masks_by(pipeline, pipeline.networks, images)
    for number in range(max(map(len, accepted.values()))):
        choice = {part: names[min(number, len(names) - 1)] for part, names in accepted.items()}
        least = min(runtime.MIN_AGREEMENT[name] for name in choice.values())
        assert least_iou(expected, masks_by(pipeline, graphs.networks(choice), images)) >= least, choice


def test_a_classifier_of_the_wall_is_converted_kept_and_measured(tmp_path, make_pipeline):
    pipeline = make_pipeline(classes=("a", "b"), wall_backbone="tf_efficientnet_lite0")
    both = pipeline.classifier, pipeline.refiner
    lines = pytorch_networks.lines_of(pipeline.classifier)

    def kept():
        made = compiled.stored(tmp_path / "kept", compiled.PARTS, lambda: conversion.convert(*both))
        return runtime.Graphs(made, lines, lambda: pipeline.networks)

    graphs = kept()
    assert (tmp_path / "kept" / "wall_reader.xml").is_file()
    again = kept()
    strips = random((1, 3, 256, 896))
    expected = pipeline.networks.wall_reader(strips)
    assert not np.array_equal(expected.score_maps, pipeline.networks.classifier(strips).score_maps)
    for made in (graphs, again):
        found = made.uniform("OpenVINO float32")
        np.testing.assert_allclose(found.wall_reader(strips).logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert pytorch_networks.measure(graphs, *both).agreement["wall_reader"]["OpenVINO float32"] > 0.99


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (3, 3, 128, 128), (2, 3, 96, 96), (1, 3, 256, 896)])
def test_one_conversion_takes_batches_and_sizes_of_all_kinds(make_pipeline, shape):
    """The frame, the smaller frame that presence is judged on, and the strip of a wall."""
    pipeline = make_pipeline()
    found = graphs_of(pipeline).uniform("OpenVINO float32")
    images = random(shape)
    expected, seen = pipeline.networks.classifier(images, features=True), found.classifier(images, features=True)
    for one, other in zip(expected, seen, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)
    assert found.classifier(images).features is None
    crops = random((shape[0], 12, 64, 64), seed=1)
    np.testing.assert_allclose(found.refiner(crops), pipeline.networks.refiner(crops), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        PipelineConfig(layers=(4, 8)),
        PipelineConfig(cam="LayerCAM", layers=(8, 16), presence_scale=0.5),
        PipelineConfig(cam="ScoreCAM"),
        PipelineConfig(wall=WallView("a", ("b",)), presence_scale=0.75, map_threshold={"HiResCAM": {"a": 0.05}}),
    ],
    ids=lambda config: f"{config.maps}{'-wall' if config.wall else ''}",
)
def test_maps_of_every_kind_are_the_same(make_pipeline, config):
    """Also those that need gradients, which PyTorch computes, and those of the unrolled wall."""
    pipeline = make_pipeline(config=config)
    image = render_phantom(0, 128).image
    presence, maps = pipeline.maps([image])
    embedding = pipeline.embed(image)
    pipeline.networks = graphs_of(pipeline).uniform("OpenVINO float32")
    other_presence, other_maps = pipeline.maps([image])
    np.testing.assert_allclose(other_presence, presence, atol=1e-3)
    np.testing.assert_allclose(other_maps[0], maps[0], atol=2e-3)
    np.testing.assert_allclose(pipeline.embed(image).maps, embedding.maps, atol=2e-3)


def test_threads_that_share_a_network_get_their_own_answers(light):
    _, graphs = light
    networks = graphs.uniform("OpenVINO float32")
    images = random((8, 1, 3, 64, 96))
    alone = [networks.classifier(image).score_maps for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda image: networks.classifier(image).score_maps, images))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_converted_and_measured_once(checkpoint, monkeypatch):
    first = load_model(checkpoint, runtime="openvino")
    assert by_openvino(first)
    monkeypatch.setattr(conversion, "convert", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(pytorch_networks, "measure", lambda *_: pytest.fail("measured again"))
    image = render_phantom(0, 128).image
    again = load_model(checkpoint, runtime="openvino")
    assert again.networks.name == first.networks.name
    np.testing.assert_array_equal(again.maps([image])[0], first.maps([image])[0])


def test_a_new_openvino_is_converted_and_measured_for(checkpoint, monkeypatch):
    load_model(checkpoint, runtime="auto")
    (before,) = (checkpoint / "runtime").iterdir()
    monkeypatch.setattr(compiled, "version", lambda package: version(package) + ".post1")
    load_model(checkpoint, runtime="auto")
    (after,) = (checkpoint / "runtime").iterdir()
    assert after != before
    assert sorted(file.suffix for file in after.glob("*.*")) == [".bin"] * 3 + [".json"] + [".xml"] * 3


def test_a_copy_with_other_weights_is_converted_for_itself(checkpoint, tmp_path, make_pipeline):
    load_model(checkpoint, runtime="auto")
    torch.manual_seed(1)
    other = make_pipeline(classes=("a", "b"))
    with torch.no_grad():
        other.classifier.head.weight.mul_(2)
    save_pipeline(other, tmp_path / "v2", Card("v2", ["a", "b"], "", ""))
    shutil.copytree(checkpoint / "runtime", tmp_path / "v2" / "runtime")
    loaded = load_model(tmp_path / "v2", runtime="openvino")
    image = render_phantom(0, 128).image
    np.testing.assert_allclose(loaded.maps([image])[0], load_pipeline(tmp_path / "v2").maps([image])[0], atol=0.02)


@pytest.mark.parametrize("damaged", ["classifier.xml", "refiner.bin", "measured"])
def test_what_is_damaged_is_made_again(checkpoint, damaged):
    load_model(checkpoint, runtime="auto")
    (file,) = (checkpoint / "runtime").glob(f"*/{damaged}*")
    file.write_bytes(file.read_bytes()[:40])
    assert by_openvino(load_model(checkpoint, runtime="openvino"))
    (file,) = (checkpoint / "runtime").glob(f"*/{damaged}*")
    assert file.stat().st_size > 40


@pytest.mark.parametrize("content", ['{"seconds": [1], "agreement": null}', '{"seconds": {}, "agreement": {}}'])
def test_a_measurement_of_something_else_is_made_again(tmp_path, content):
    file = tmp_path / runtime._measurement()
    file.write_text(content)
    measured = runtime.Measured({"refiner": {"PyTorch": 0.5}}, {"refiner": {"PyTorch": 1.0}})
    assert runtime._measured(tmp_path, ["refiner"], lambda: measured) == measured
    assert json.loads(file.read_text())["seconds"] == measured.seconds


def test_a_checkpoint_that_cannot_be_written_to_is_served_all_the_same(checkpoint):
    (checkpoint / "runtime").write_text("in the way")
    assert by_openvino(load_model(checkpoint, runtime="openvino"))


def test_without_openvino_pytorch_computes_and_a_sentence_says_so(checkpoint, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    compiled.core.cache_clear()
    with caplog.at_level(logging.WARNING):
        loaded = load_model(checkpoint, runtime="openvino")
    compiled.core.cache_clear()
    assert loaded.networks.name == "PyTorch"
    (record,) = caplog.records
    assert record.getMessage().startswith("v1 is computed by PyTorch, because OpenVINO cannot: ")
    assert loaded.predict([render_phantom(0, 128).image])


def test_requests_are_answered_by_pytorch_until_the_networks_are_converted(checkpoint, monkeypatch):
    """Nobody waits for a conversion, and nothing is left of PyTorch's weights when it is done."""
    begin, done = threading.Event(), threading.Event()

    def slow(*arguments):
        assert begin.wait(60)
        prepare_apart(*arguments)

    monkeypatch.setattr("models.pipeline.prepare_apart", slow)
    images = [render_phantom(seed, 128).image for seed in range(2)]
    expected = load_pipeline(checkpoint).maps(images)[1]
    loaded = load_model(checkpoint, runtime="openvino", afterwards=done.set)
    assert loaded.networks.name == "PyTorch"
    np.testing.assert_array_equal(loaded.maps(images)[1], expected)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "runtime-v1")
    begin.set()
    thread.join(240)
    assert by_openvino(loaded)
    assert loaded._loaded is None
    assert done.is_set()
    np.testing.assert_allclose(np.stack(loaded.maps(images)[1]), np.stack(expected), atol=0.02)
    embedding = loaded.embed(images[0])
    assert loaded.prompt(embedding, Prompt((Click(64, 64, True),), ()), "a").mask.shape == (128, 128)


def in_background(checkpoint, afterwards):
    """A model whose networks were converted in the background."""
    loaded = load_model(checkpoint, runtime="openvino", afterwards=afterwards)
    for thread in [thread for thread in threading.enumerate() if thread.name == "runtime-v1"]:
        thread.join(240)
    return loaded


def test_what_a_full_disk_did_not_keep_replaces_no_process(checkpoint, monkeypatch):
    """The next one would make it again, and be replaced again, without end."""
    monkeypatch.setattr("models.pipeline.prepare_apart", lambda *_: None)
    monkeypatch.setattr(compiled, "_keep", lambda *_: None)
    assert by_openvino(in_background(checkpoint, lambda: pytest.fail("not kept")))


def test_a_checkpoint_that_is_removed_while_it_is_converted_stays_with_pytorch(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr("models.pipeline.prepare_apart", lambda *_: shutil.rmtree(checkpoint))
    loaded = in_background(checkpoint, lambda: pytest.fail("not converted"))
    assert loaded.networks.name == "PyTorch"
    assert "v1 stays with PyTorch: " in caplog.text


def test_a_conversion_that_was_killed_is_told_by_its_signal(checkpoint, monkeypatch, caplog):
    """Its last line would be of something that went well."""
    killed = 'import os; print(\'{"stage": "done"}\', flush=True); os.kill(os.getpid(), 9)'
    monkeypatch.setattr(prepare, "COMMAND", (sys.executable, "-c", killed))
    in_background(checkpoint, lambda: None)
    assert "failed: it was ended by SIGKILL" in caplog.text


def test_what_a_killed_conversion_left_is_removed_when_nobody_writes_it_any_more(checkpoint):
    young, old = (checkpoint / "runtime" / f".partial-{name}" for name in ("young", "old"))
    for folder in (young, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    load_model(checkpoint, runtime="openvino")
    assert young.is_dir()
    assert not old.exists()


def test_what_is_made_already_is_used_at_once(checkpoint, monkeypatch, capsys):
    """As after a publication: the server's first load converts nothing, in the background or otherwise."""
    assert prepare.main([str(checkpoint), "--runtime", "openvino"]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "done"
    monkeypatch.setattr(conversion, "convert", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(pytorch_networks, "measure", lambda *_: pytest.fail("measured again"))
    assert by_openvino(load_model(checkpoint, runtime="openvino", afterwards=lambda: pytest.fail("not made")))


def test_what_is_made_already_is_served_without_torch(checkpoint):
    """Which takes half a gigabyte and seconds: tasks, embeddings and clicks are answered without it."""
    load_model(checkpoint, runtime="openvino")
    served = subprocess.run([sys.executable, "-c", SERVED, str(checkpoint)], capture_output=True, text=True, check=True)
    assert served.stdout.split() == ["1", "128", "False", "False"]


def test_a_checkpoint_that_cannot_be_loaded_is_not_prepared(tmp_path, capsys):
    assert prepare.main([str(tmp_path)]) == 1
    assert "no card.json" in json.loads(capsys.readouterr().out)["reason"]


def test_a_conversion_that_fails_is_a_line_of_the_log_and_prints_nothing(tmp_path, caplog, capfd):
    """The server's log may be one of JSON, and what libraries print is none."""
    choice: Any = types.SimpleNamespace(directory=tmp_path, wanted="openvino", kept=None)
    prepare_apart(choice, 1)
    (record,) = [record for record in caplog.records if record.name == "models.prepare"]
    assert "failed: " in record.getMessage()
    assert "no card.json" in record.getMessage()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("config", [PipelineConfig(layers=(4, 8)), PipelineConfig(cam="ScoreCAM")])
def test_weights_stay_where_maps_need_them(tmp_path, make_pipeline, config):
    pipeline = make_pipeline(config=config)
    save_pipeline(pipeline, tmp_path / "v1", Card("v1", ["a", "b"], "", ""))
    images = [render_phantom(0, 128).image]
    loaded = load_model(tmp_path / "v1", runtime="openvino")
    np.testing.assert_allclose(loaded.maps(images)[1], load_pipeline(tmp_path / "v1").maps(images)[1], atol=0.02)


def test_memory_that_was_given_back_is_taken_again(light):
    """The same masks before and after."""
    _, graphs = light
    networks = graphs.uniform("OpenVINO float32")
    images = random((1, 3, 128, 128))
    before = networks.classifier(images).score_maps
    networks.release()
    np.testing.assert_array_equal(networks.classifier(images).score_maps, before)


def test_pytorch_when_asked_for_touches_nothing(checkpoint):
    assert load_model(checkpoint, runtime="pytorch").networks.name == "PyTorch"
    assert not (checkpoint / "runtime").exists()


@pytest.mark.parametrize(
    ("wanted", "agreement", "chosen"),
    [
        ("auto", [(1.0, 0.995), (1.0, 0.995)], "OpenVINO bfloat16"),
        ("auto", [(1.0, 0.98), (1.0, 0.98)], "PyTorch"),
        ("auto", [(1.0, 0.98), (1.0, 0.995)], "classifier PyTorch, refiner OpenVINO bfloat16"),
        ("openvino", [(1.0, 0.98), (1.0, 0.98)], "OpenVINO float32"),
        ("openvino", [(1.0, 0.98), (1.0, 0.995)], "classifier OpenVINO float32, refiner OpenVINO bfloat16"),
        ("openvino", [(0.99, 0.98), (0.99, 0.98)], "PyTorch"),
    ],
)
def test_each_network_gets_the_fastest_whose_masks_are_the_same(checkpoint, monkeypatch, wanted, agreement, chosen):
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda: True)
    times = {"PyTorch": 2.0, "OpenVINO float32": 3.0, "OpenVINO bfloat16": 1.0}
    seconds = {"classifier": times, "refiner": times}
    found = {
        part: {"PyTorch": 1.0, "OpenVINO float32": single, "OpenVINO bfloat16": half}
        for part, (single, half) in zip(seconds, agreement, strict=True)
    }
    monkeypatch.setattr(pytorch_networks, "measure", lambda *_: runtime.Measured(seconds, found))
    assert load_model(checkpoint, runtime=wanted).networks.name == chosen
    (file,) = (checkpoint / "runtime").glob("*/measured-*.json")
    assert json.loads(file.read_text())["seconds"] == seconds


def test_the_wall_is_never_read_in_the_bfloat16_of_pytorch(make_pipeline):
    graphs = graphs_of(make_pipeline(classes=("a", "b"), wall_backbone="tf_efficientnet_lite0"))
    seconds = {part: {"PyTorch": 1.0, "OpenVINO float32": 2.0, "OpenVINO bfloat16": 0.5} for part in graphs.parts}
    agreement = {part: {"PyTorch": 1.0, "OpenVINO float32": 1.0, "OpenVINO bfloat16": 0.9} for part in graphs.parts}
    chosen = runtime.chosen_runtimes(runtime.Measured(seconds, agreement), graphs, "auto")
    assert chosen == {"classifier": "PyTorch", "refiner": "PyTorch", "wall_reader": "OpenVINO float32"}


@pytest.mark.parametrize("native", [False, True])
def test_a_classifier_falls_into_halves_only_where_the_processor_has_bfloat16(make_pipeline, monkeypatch, native):
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda: native)
    graphs = graphs_of(make_pipeline())
    assert ("OpenVINO float32 and bfloat16" in graphs.precisions("classifier")) == native
    assert "OpenVINO float32 and bfloat16" not in graphs.precisions("refiner")


def outputs(logits, maps):
    return Output(np.array(logits, np.float32), np.array(maps, np.float32), None)


def test_outputs_agree_by_their_masks_and_by_who_is_present():
    """A class that lies on the line may fall on either side; one that is moved over it may not."""
    maps = [[[[1.0, 1.0, -1.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]]]]  # (B, C, h, w)
    shifted = [[[[1.0, -1.0, -1.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]]]]
    expected = outputs([[2.0, 0.01]], maps)
    assert probes.agreement(expected, outputs([[1.9, -0.01]], maps)) == 1.0
    assert probes.agreement(expected, outputs([[2.0, -1.0]], maps)) == 0.5
    assert probes.agreement(expected, outputs([[2.0, 0.01]], shifted)) == 0.5
    assert probes.agreement(np.array([0.6, 0.4], np.float32), np.array([0.9, 0.1], np.float32)) == 1.0
    assert probes.agreement(np.array([0.6, 0.6], np.float32), np.array([0.9, 0.1], np.float32)) == 0.5


@pytest.fixture
def quantises(monkeypatch):
    """As if NNCF were installed and rounded nothing."""
    monkeypatch.setattr(conversion, "installed", lambda: True)
    monkeypatch.setattr(compiled, "installed", lambda: True)
    monkeypatch.setattr(compiled, "version", lambda package: "1" if package == "nncf" else version(package))
    monkeypatch.setattr(conversion, "quantised", lambda model, inputs, exact: model.clone())


@pytest.mark.parametrize(
    ("agreement", "chosen"),
    [(0.99, "classifier OpenVINO float32, refiner OpenVINO int8"), (0.98, "OpenVINO float32")],
)
def test_fbanet_is_computed_in_integers_where_that_keeps_its_masks(
    checkpoint, monkeypatch, caplog, quantises, agreement, chosen
):
    """Kept beside the other networks, and read again without a conversion."""
    times = {"PyTorch": 4.0, "OpenVINO float32": 2.0}
    seconds = {"classifier": times, "refiner": times | {"OpenVINO int8": 1.0}}
    found = {part: dict.fromkeys(times, 1.0) for part in seconds}
    found["refiner"]["OpenVINO int8"] = agreement
    monkeypatch.setattr(pytorch_networks, "measure", lambda *_: runtime.Measured(seconds, found))
    with caplog.at_level(logging.INFO):
        loaded = load_model(checkpoint, runtime="auto")
    assert loaded.networks.name == chosen
    sentence = "the refiner of v1 is not computed in 8-bit integers, because its masks differ: IoU 0.9800"
    assert (sentence in caplog.messages) == (agreement < 0.99)
    assert list((checkpoint / "runtime").glob("*/refiner-int8.xml"))
    monkeypatch.setattr(conversion, "convert", lambda *_: pytest.fail("converted again"))
    image = render_phantom(0, 128).image
    again = load_model(checkpoint, runtime="auto")
    assert again.networks.name == chosen
    np.testing.assert_array_equal(again.predict([image])[0].score, loaded.predict([image])[0].score)


@pytest.mark.parametrize("native", [False, True])
def test_what_is_not_quantised_is_in_bfloat16_only_where_the_processor_has_it(
    make_pipeline, monkeypatch, quantises, native
):
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda: native)
    offered = graphs_of(make_pipeline()).precisions("refiner")
    assert "OpenVINO int8" in offered
    assert ("OpenVINO int8 and bfloat16" in offered) == native
    assert "OpenVINO int8 and bfloat16" not in graphs_of(make_pipeline()).precisions("classifier")


def test_nncf_that_is_installed_later_is_used(checkpoint, monkeypatch, caplog, quantises):
    for module in (conversion, compiled):
        monkeypatch.setattr(module, "installed", lambda: False)
    with caplog.at_level(logging.INFO):
        load_model(checkpoint, runtime="auto")
    assert "FBANet is not computed in 8-bit integers, because NNCF is not installed" in caplog.messages
    assert not list((checkpoint / "runtime").glob("*/refiner-int8.xml"))
    for module in (conversion, compiled):
        monkeypatch.setattr(module, "installed", lambda: True)
    load_model(checkpoint, runtime="auto")
    (file,) = (checkpoint / "runtime").glob("*/measured-*.json")
    assert "OpenVINO int8" in json.loads(file.read_text())["seconds"]["refiner"]


def test_nncf_that_fails_costs_nothing_but_the_integers(checkpoint, monkeypatch, caplog, quantises):
    def fails(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(conversion, "quantised", fails)
    assert by_openvino(load_model(checkpoint, runtime="openvino"))
    assert "FBANet is not computed in 8-bit integers, because NNCF cannot: no such operation" in caplog.messages


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fbanet_in_integers_draws_the_same_masks_of_objects_of_all_kinds(light):
    pytest.importorskip("nncf")
    _, graphs = light
    crops = probes.object_crops(256, range(2))
    found = graphs.uniform("OpenVINO int8").refiner(crops)
    expected = graphs.uniform("OpenVINO float32").refiner(crops)
    assert not np.array_equal(found >= 0.5, expected >= 0.5), "nothing is rounded"
    assert probes.agreement(expected, found) >= runtime.MIN_AGREEMENT["OpenVINO int8"]


def test_probes_are_drawn_at_any_size():
    """What is measured on is drawn at any size a model may have."""
    for size in (64, 96, 512):
        drawn = probes.probes_of(size, 64)
        assert drawn["classifier"].shape == (probes.PROBES, 3, size, size)
        assert drawn["wall_reader"].shape == (probes.PROBES, 3, 256, 896)
        assert (drawn["wall_reader"].reshape(probes.PROBES, -1).std(axis=1) > 0).all()
        crops = drawn["refiner"]
        assert crops.shape[1:] == (12, 64, 64)
        assert len(crops) > len(KINDS), "an object of each kind, or more"
        assert ((crops[:, 3] == 0) & (crops[:, 4] == 0)).any(), "FBANet has something to decide"
