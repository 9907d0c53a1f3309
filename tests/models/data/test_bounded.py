"""A hostile image costs its own answer: neither memory, nor a thread, nor the images that follow."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.bounded import Budget, Decoders, decode_bounded
from models.data.decoding import decode_image
from tests.models.data import test_decoding, test_dicom, test_tiff, test_video
from tests.models.data.hostile_images import slow_picture, strip_a_byte

ROOT = Path(__file__).parents[3]
MANY = 64_000_000
MB = 1 << 20


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


HONEST = saved(Image.linear_gradient("L"))
LARGE = saved(Image.new("RGB", (8000, 8000)))


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(helpers=1, seconds=240, wait=240)  # machines may be busy
    yield made
    made.close()


def peak(process: int) -> int:
    """The most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def waited_for(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_an_image_is_the_same_as_without_a_helper_and_belongs_to_the_caller(decoders: Decoders) -> None:
    image = decoders.decode(HONEST, MANY)
    assert np.array_equal(image, decode_image(HONEST, MANY))
    image[:] = 7
    assert np.array_equal(decoders.decode(HONEST, MANY), decode_image(HONEST, MANY))
    frames = BytesIO()
    Image.new("L", (3, 2), 10).save(frames, "TIFF", save_all=True, append_images=[Image.new("L", (3, 2), 20)])
    assert decoders.decode(frames.getvalue(), MANY, page=1).max() == 20


def test_what_is_no_image_is_refused_as_without_a_helper(decoders: Decoders) -> None:
    for data, max_pixels in ((b"", MANY), (b"%PDF-1.7", MANY), (HONEST, 100), (HONEST[:90], MANY)):
        with pytest.raises(ValueError, match="it ") as caught:
            decoders.decode(data, max_pixels)
        with pytest.raises(ValueError, match="it ") as without:
            decode_image(data, max_pixels)
        assert str(caught.value) == str(without.value)


def test_a_strip_for_each_byte_is_refused_with_little_memory(decoders: Decoders) -> None:
    """8 MB of offsets for 16 pixels, of which libraries make objects before they look at the size."""
    bomb = strip_a_byte(1_000_000)
    assert len(bomb) > 8_000_000
    decoders.decode(saved(Image.new("L", (4, 4)), "TIFF"), MANY)  # the libraries are loaded
    (process,) = decoders.processes()
    before = peak(process)
    with pytest.raises(ValueError, match="4 x 4 pixels that claims 1000000 strips"):
        decoders.decode(bomb, MANY)
    assert peak(process) - before < 64 * MB
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)
    assert decoders.processes() == [process]


def test_six_large_pictures_at_once_cost_two_at_a_time() -> None:
    """Each has 64 million pixels in 200 kB. A helper that is allowed half of what one takes refuses it, and goes on."""
    small = Decoders(helpers=2, seconds=240, memory=128 * MB, wait=240)
    outcomes: list[str] = []

    def decode() -> None:
        try:
            small.decode(LARGE, MANY)
        except ValueError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["decoding it took more than 128 MB; make it smaller"] * 6
    assert np.array_equal(small.decode(HONEST, MANY), decode_image(HONEST, MANY))
    assert all(peak(process) < 400 * MB for process in small.processes())
    small.close()


def test_a_large_honest_picture_fits(decoders: Decoders) -> None:
    image = decoders.decode(LARGE, MANY)
    assert (image.shape, int(image.max())) == ((8000, 8000, 3), 0)
    (process,) = decoders.processes()
    assert peak(process) < 700 * MB
    with pytest.raises(ValueError, match="8000 x 8000 pixels, at most"):
        decoders.decode(LARGE, MANY - 1)


def test_decoded_images_share_a_budget_until_they_are_gone() -> None:
    """Six pictures of 192 MB cannot be in memory together, and small ones do not wait for them."""
    decoders = Decoders(helpers=2, seconds=240, decoded_large=200 * MB, wait=2.0)
    first = decoders.decode(LARGE, MANY)
    with pytest.raises(ValueError, match="it waited 2 s for other images to be decoded; try again later"):
        decoders.decode(LARGE, MANY)
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)
    part = first[:10, :10]
    del first
    with pytest.raises(ValueError, match="it waited 2 s"):  # a part of it holds all of it
        decoders.decode(LARGE, MANY)
    del part
    assert decoders.decode(LARGE, MANY).shape == (8000, 8000, 3)
    decoders.close()


def test_small_images_share_a_budget_too_and_use_no_more_of_it_than_they_need() -> None:
    decoders = Decoders(helpers=1, seconds=240, decoded=25 * MB, wait=1.0)
    kept = [decoders.decode(HONEST, MANY) for _ in range(4)]
    middle = saved(Image.new("RGB", (2000, 1000)))
    kept.append(decoders.decode(middle, MANY))
    with pytest.raises(ValueError, match="it waited 1 s"):
        decoders.decode(middle, MANY)
    kept.pop()
    assert decoders.decode(middle, MANY).shape == (1000, 2000, 3)
    decoders.close()


def test_to_wait_for_a_helper_has_a_deadline() -> None:
    decoders = Decoders(helpers=1, seconds=240, wait=0.5)
    decoders.decode(HONEST, MANY)
    with decoders._helper(time.monotonic() + 5), pytest.raises(ValueError, match=r"it waited 0\.5 s"):
        decoders.decode(HONEST, MANY)
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)
    decoders.close()


def test_what_is_refused_gives_its_share_back() -> None:
    decoders = Decoders(helpers=1, seconds=240, memory=128 * MB, wait=5.0)
    for data in (b"", HONEST[:90], LARGE) * 2:
        with pytest.raises(ValueError, match="it "):
            decoders.decode(data, MANY)
    for budget in (decoders._decoded, decoders._decoded_large, decoders._large):
        assert budget.free == budget.total
    decoders.close()


def test_who_asks_first_for_a_share_gets_it_first() -> None:
    budget, got = Budget(10), []
    budget.acquire(10, 0.0)

    def take(count: int) -> None:
        budget.acquire(count, time.monotonic() + 60)
        got.append(count)

    threads = [threading.Thread(target=take, args=(count,)) for count in (8, 2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    budget.release(2)  # enough for the second, whose turn it is not
    time.sleep(0.3)
    assert got == []
    budget.release(8)
    for thread in threads:
        thread.join()
    assert sorted(got) == [2, 8]


def test_an_image_that_takes_too_long_is_given_up() -> None:
    decoders = Decoders(helpers=1, seconds=30)
    decoders.decode(HONEST, MANY)
    hasty = Decoders(helpers=1, seconds=0.05)
    with pytest.raises(ValueError, match=r"decoding it took more than 0\.05 s"):
        hasty.decode(slow_picture(), MANY)
    assert hasty.processes() == []
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)
    decoders.close()


def test_a_helper_killed_in_the_middle_costs_one_image(decoders: Decoders) -> None:
    decoders.decode(HONEST, MANY)
    (process,) = decoders.processes()
    caught: list[str] = []

    def decode() -> None:
        try:
            decoders.decode(LARGE, MANY)
        except ValueError as error:
            caught.append(str(error))

    thread = threading.Thread(target=decode)
    idle = peak(process)
    thread.start()
    assert waited_for(lambda: peak(process) > idle + 50 * MB)
    os.kill(process, signal.SIGKILL)
    thread.join()
    assert caught == ["decoding it ended the process that did so (SIGKILL); it is damaged or takes too much memory"]
    assert np.array_equal(decoders.decode(HONEST, MANY), decode_image(HONEST, MANY))
    assert decoders.processes() != [process]


def test_a_helper_that_dies_between_two_images_is_replaced(decoders: Decoders) -> None:
    decoders.decode(HONEST, MANY)
    (process,) = decoders.processes()
    os.kill(process, signal.SIGKILL)
    assert waited_for(lambda: Path(f"/proc/{process}/stat").read_text().split()[2] == "Z")
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)


def test_who_waits_longest_is_served_next() -> None:
    """Five threads that want much do not keep a sixth waiting for more than one image each."""
    decoders = Decoders(helpers=1, seconds=240)
    decoders.decode(HONEST, MANY)
    served: list[str] = []
    begun, stop = threading.Semaphore(0), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            begun.release()
            decoders.decode(HONEST, MANY)
            served.append("busy")

    threads = [threading.Thread(target=busy) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        begun.acquire()
    for _ in range(3):
        before = len(served)
        decoders.decode(HONEST, MANY)
        # Five that were in the queue, and some that finish while this thread wakes up.
        assert len(served) - before <= 10
    stop.set()
    for thread in threads:
        thread.join()
    decoders.close()


SCRIPT = """
import os, sys, threading
from io import BytesIO
from PIL import Image
from models.data.bounded import decode_bounded, _shared
file = BytesIO(); Image.new("RGB", (40, 30)).save(file, "PNG")
threads = [threading.Thread(target=decode_bounded, args=(file.getvalue(), 10000)) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(*_shared(os.getpid()).processes(), flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_no_helper_outlives_its_process(how: str) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, cwd=ROOT, timeout=200)
    processes = [int(word) for word in ran.stdout.split()]
    assert 1 <= len(processes) <= 2, ran.stderr
    assert ran.returncode == (0 if how == "exit" else -signal.SIGKILL)
    assert waited_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def test_a_helper_sees_none_of_the_environment(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    decoders.decode(HONEST, MANY)
    (process,) = decoders.processes()
    assert b"secret" not in Path(f"/proc/{process}/environ").read_bytes()


def test_the_helpers_of_a_process_are_shared_by_its_threads() -> None:
    assert np.array_equal(decode_bounded(HONEST, MANY), decode_image(HONEST, MANY))


def test_bytes_changed_anywhere_in_any_kind_give_an_image_or_a_reason(decoders: Decoders) -> None:
    stack = test_tiff.STACK
    lossless = (test_tiff.RAMP * 4095).astype(np.uint16)
    kinds = [
        *(test_tiff.written(stack, **options) for options in ({}, {"compression": "lzw"}, {"imagej": True})),
        test_tiff.written(stack[0], compression="jpeg2000", tile=(16, 16)),
        *(test_dicom.written([lossless], syntax, code) for syntax, code, kind in test_dicom.SYNTAXES if kind != np.uint8
          and code != "rle"),
        test_decoding.deep_png(lossless),
        *(test_video.FILMS[kind] for kind in ("AVI, FFV1", "MP4, H.264 with frames out of order")),
    ]  # fmt: skip
    random = np.random.default_rng(0)
    read = 0
    for number in range(200):
        data = bytearray(kinds[number % len(kinds)])
        for _ in range(int(random.choice([1, 2, 10]))):
            data[random.integers(0, min(len(data), int(random.choice([300, 10**6]))))] = random.integers(0, 256)
        try:
            image = decoders.decode(bytes(data), 100_000)
        except ValueError:
            continue
        read += 1
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.dtype(np.uint8))
    assert 20 < read < 200
    assert decoders.decode(HONEST, MANY).shape == (256, 256, 3)
