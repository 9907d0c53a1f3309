"""Removes the CUDA libraries that torch does not load on a machine without a GPU; run where the image is built.

The libraries that torch was linked with are loaded by its import on every machine. The others are opened by name
when something is first computed on a GPU, so on a CPU they are never opened.
"""

from pathlib import Path

import torch
import torchvision

packages = Path(torch.__file__).parent.parent
# Some libraries are opened by the first use of what they are for.
image, kernel = torch.randn(1, 3, 32, 32, requires_grad=True), torch.randn(3, 3, 3, 3)
torch.nn.functional.conv2d(image, kernel).sum().backward()
torch.linalg.svd(image[0, 0])
torch.fft.fft(image)
torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)

loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
freed = 0
for library in (packages / "nvidia").rglob("*.so*"):
    if str(library.resolve()) not in loaded:
        freed += library.stat().st_size
        library.unlink()
print(f"left out {freed / 2**20:.0f} MiB of CUDA libraries that a CPU does not load")
