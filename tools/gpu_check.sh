#!/bin/sh
# What R3 does on this machine's GPU, in at most eight minutes: one table and one JSON file.
#   tools/gpu_check.sh [--out FOLDER] [--official FOLDER] [--parity FOLDER] [--only NAME ...]
# Needs a python3 with torch, CuPy, NumPy, SciPy, OpenCV, Pillow, PyYAML, psutil and tqdm, and nothing
# installed of this package. Without a GPU, or with --cpu, a dry run with a small network.
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=. PYTHONUNBUFFERED=1
# The file is written after each check: what was measured stays if the time runs out.
exec timeout --kill-after=10 480 "${PYTHON:-python3}" -m tools.gpu_check "$@"
