#!/bin/sh
# cpu-environment.sh LOCK: the packages of LOCK in the environment VIRTUAL_ENV, without what only a GPU needs.
# With TORCH_CPU_INDEX, torch and torchvision come from there as builds for CPUs: no lock knows their hashes, so that
# index has to be one that you trust. Without it they are the locked ones, which name CUDA's libraries and do not start
# without those; what a CPU never loads is left out all the same.
set -eu

lock=$1
all_but() { # the packages of the lock whose names do not match, with their hashes
    awk -v out="$1" '/^[a-z0-9]/ { kept = $0 !~ out } kept' "$lock"
}

if [ -n "${TORCH_CPU_INDEX:-}" ]; then
    all_but '^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' >/tmp/cpu.txt
    uv pip sync --require-hashes --compile-bytecode /tmp/cpu.txt
    wanted=$(sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2+cpu/p' "$lock")
    # shellcheck disable=SC2086 # one argument a package
    uv pip install --no-deps --compile-bytecode --default-index "$TORCH_CPU_INDEX" $wanted
else
    all_but '^(triton|cuda-[a-z]+)==' >/tmp/cpu.txt
    uv pip sync --require-hashes --compile-bytecode /tmp/cpu.txt
    "$VIRTUAL_ENV/bin/python" "$(dirname "$0")/drop_unloaded.py"
fi
"$VIRTUAL_ENV/bin/python" -c 'import torch, torchvision, timm; print("torch", torch.__version__)'
