#!/usr/bin/env bash
# Fetches what benchmarks/h200.py needs and an accelerator's image with jax 0.11 lacks, as wheels for
# Python 3.12 on Linux x86-64, into a folder: at most 64 MiB, without jax and what it brings.
#
#   benchmarks/h200_wheels.sh .whl
#   python3 -m pip install --no-index --no-deps --upgrade --target SITE .whl/*.whl     there
#   PYTHONPATH=SITE python3 benchmarks/h200.py --out=DIRECTORY
set -euo pipefail
directory=${1:?name a folder for the wheels}
wheels=(
  gin-config==0.5.0 annotated-types==0.8.0
  grain==0.2.18 array-record==0.8.6 portpicker==1.6.0
  tokamax==0.0.17 xprof==2.24.2 gviz-api==1.10.0 termcolor==3.2.0 six==1.17.0 fire==0.7.1 tensorboardx==2.6.5
  einshape==1.0 qwix==0.1.8 immutabledict==4.3.1 pydantic==2.14.4 pydantic-core==2.50.5 typing-inspection==0.4.5
)
mkdir -p "$directory"
platforms=()
for glibc in 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$directory" "${wheels[@]}"
size=$(du --summarize --block-size=1M "$directory" | cut -f 1)
echo "$size MiB in $directory: $(find "$directory" -name '*.whl' | wc -l) wheels"
if [ "$size" -gt 64 ]; then
  echo "more than 64 MiB; leave wheels out" >&2
  exit 1
fi
