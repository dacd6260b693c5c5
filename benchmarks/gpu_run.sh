#!/usr/bin/env bash
# The first half hour on a GPU: versions, compilation, checks, the benchmark, a profile, and other options of the kernels.
#
#   benchmarks/gpu_run.sh [FOLDER]
#
# Runs from a clone, with torch, Triton, timm and click; nothing is installed. Each step has a time limit and writes into
# FOLDER (default: runs/gpu) as it goes, so that a run that is cut off still leaves its results. A step that fails does
# not stop the others; its output is in FOLDER/<step>.log and the summary in FOLDER/steps.txt.
set -u
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-runs/gpu}" && cd "${1:-runs/gpu}" && pwd)

# the package as a tree of links, for a machine on which it is not installed
tree=$out/.package
rm -rf "$tree" && mkdir -p "$tree/attnzoo"
ln -s "$PWD"/zoo/* "$tree/attnzoo/"
for folder in blocks kernels configs tools; do ln -s "$PWD/$folder" "$tree/attnzoo/$folder"; done
export PYTHONPATH=$tree:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=default

python=${PYTHON:-python3}

# step NAME SECONDS COMMAND...
step() {
  local name=$1 seconds=$2 start=$SECONDS
  shift 2
  timeout --kill-after=10 "$seconds" "$@" > "$out/$name.log" 2>&1
  echo "$name: exit $?, $((SECONDS - start)) of $seconds s" | tee -a "$out/steps.txt"
}

: > "$out/steps.txt"
step versions 60 "$python" -c '
import platform, torch, triton, timm
print(platform.python_version(), torch.__version__, triton.__version__, timm.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0))'
step static 180 "$python" -m benchmarks static --architecture sm90 --only " D32 " --out "$out"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" benchmarks/gpu_checks.py tiny
  done
fi
step checks 240 "$python" benchmarks/gpu_checks.py sweep graph compile
step benchmark 480 "$python" -m benchmarks kernels --device cuda --seconds 420 --out "$out"
if command -v ncu > /dev/null; then
  step profile 240 ncu --set full --launch-count 12 --kernel-name-base function \
    --kernel-name regex:"interval_|window_" --export "$out/profile" --force-overwrite \
    "$python" benchmarks/gpu_checks.py stage
fi
step tuned 300 env ATTNZOO_AUTOTUNE=1 "$python" -m attnzoo.tools.cli bench kernels --device cuda --out "$out/tuned"
step again 180 "$python" -m attnzoo.tools.cli bench kernels --device cuda --out "$out/again"
step tune 420 "$python" -m benchmarks tune --seconds 360 --out "$out"
cat "$out/steps.txt"
