"""What is imported to serve a model."""

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_a_model_is_loaded_without_torchs_compiler():
    """Its import takes 130 MB in every server and worker, and as long as that of all of timm."""
    said = run(
        "import sys, models.families, models.pipeline\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy', 'triton') if name in sys.modules])"
    )
    assert said.strip() == "[]"


def test_the_compiler_is_there_for_those_who_ask_for_it():
    said = run(
        "from models.lean_timm import timm\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "import torch, torch._dynamo\n"
        "print(is_compile_supported('cpu') in (True, False), hasattr(torch._dynamo, 'optimize'))"
    )
    assert said.split() == ["True", "True"]
