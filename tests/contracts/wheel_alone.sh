#!/usr/bin/env bash
# Prove that an installed wheel runs without PyTorch and far from the checkout. Called by `make wheel`.
# Usage: wheel_alone.sh ENVIRONMENT_BIN BUNDLE VIDEO (absolute paths)
set -euo pipefail
bin=$1 bundle=$2 video=$3
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cd /

"$bin/python" -m pip --disable-pip-version-check check
for library in torch transformers diffusers onnx; do
    if "$bin/python" -c "import $library" 2>/dev/null; then
        echo "$library is installed beside the wheel: this would prove nothing about running without it" >&2
        exit 1
    fi
done
"$bin/nerve-build" --help >/dev/null
"$bin/nerve-segment" --help >/dev/null
"$bin/nerve-segment" "$video" --bundle "$bundle" --classes "grass; sky; ladybug; zebra" --jsonl "$results/results.jsonl" >/dev/null
frames=$(wc -l <"$results/results.jsonl")
if [ "$frames" -eq 0 ]; then
    echo "nerve-segment wrote no result for $video" >&2
    exit 1
fi
echo "the wheel alone segmented $frames frames without PyTorch"
