#!/usr/bin/env bash
# Prove that an installed wheel runs without PyTorch and far from the checkout. Called by `make wheel`.
# Usage: wheel_alone.sh ENVIRONMENTS BUNDLE VIDEO (absolute paths)
# ENVIRONMENTS/embed has the base install and ONNX Runtime, ENVIRONMENTS/run the extra `stream` too.
set -euo pipefail
embed=$1/embed/bin run=$1/run/bin bundle=$2 video=$3
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cd /

refuse_libraries() { # BIN LIBRARY...: fail when one of them can be imported there
    local bin=$1 library
    shift
    for library in "$@"; do
        if "$bin/python" -c "import $library" 2>/dev/null; then
            echo "$library is installed in $bin: this would prove nothing about running without it" >&2
            exit 1
        fi
    done
}

"$embed/python" -m pip --disable-pip-version-check check
refuse_libraries "$embed" torch transformers diffusers onnx av typer rich prometheus_client psutil
"$embed/python" - "$bundle" "$video" <<'PYTHON'
import sys

import cv2
from nerve_runtime import Segmenter

bundle, video = sys.argv[1:]
read, bgr = cv2.VideoCapture(video).read()
with Segmenter.open(bundle, classes=["grass", "sky", "ladybug", "zebra"]) as segmenter:
    result = segmenter.segment(bgr, bgr=True)
assert read and result.valid and result.labels.shape == bgr.shape[:2], "no labels"
print(f"the base install segmented a picture of {bgr.shape[1]} x {bgr.shape[0]} from Python")
PYTHON
for command in nerve-segment nerve-vocab; do
    code=0
    "$embed/$command" --help >/dev/null 2>"$results/said" || code=$?
    if [ $code -ne 4 ] || [ "$(wc -l <"$results/said")" -ne 1 ] || ! grep -q 'nerve-deploy\[stream\]' "$results/said"; then
        echo "$command without the extra stream ended with $code and said: $(cat "$results/said")" >&2
        exit 1
    fi
done
cat "$results/said"

"$run/python" -m pip --disable-pip-version-check check
refuse_libraries "$run" torch transformers diffusers onnx
"$run/nerve-build" --help >/dev/null
"$run/nerve-segment" --help >/dev/null
"$run/nerve-segment" "$video" --bundle "$bundle" --classes "grass; sky; ladybug; zebra" --jsonl "$results/results.jsonl" >/dev/null
(cd "$results" && "$run/nerve-segment" demo >demo.txt && test -s "$(cat demo.txt)") || {
    echo "nerve-segment demo left no overlay" >&2
    exit 1
}
code=0
(cd "$results" && "$run/nerve-segment" demo --web >/dev/null 2>"$results/said") || code=$?
if [ $code -ne 4 ] || ! grep -q 'nerve-deploy\[web\]' "$results/said"; then
    echo "--web without the extra web ended with $code and said: $(cat "$results/said")" >&2
    exit 1
fi
"$run/python" -c 'from importlib.resources import files; page = files("nerve_stream.web") / "page"
assert {"index.html", "page.css", "page.js"} <= {path.name for path in page.iterdir()}, "the wheel has no page"'
frames=$(wc -l <"$results/results.jsonl")
if [ "$frames" -eq 0 ]; then
    echo "nerve-segment wrote no result for $video" >&2
    exit 1
fi
echo "the wheel alone segmented $frames frames without PyTorch"
