#!/usr/bin/env bash
# Compiles every kernel to PTX and proves it with the assembler; `ptx/build.sh --check` only compares with what is there.
#
# Needs python3 with venv, gcc and, the first time, the network: the compiler comes from the Python registry, pinned, into
# the folder $DYNAVIT_NVCC, or .nvcc at the root of the repository. Nothing is installed anywhere else.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${DYNAVIT_NVCC:-$root/.nvcc}
packages=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
)

tools() { compgen -G "$folder/lib/python3*/site-packages/nvidia/cu13/bin" || true; }

if [ -z "$(tools)" ]; then
    echo "installing the CUDA compiler into $folder" >&2
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
fi
exec python3 "$root/ptx/build.py" --tools "$(tools)" "$@"
