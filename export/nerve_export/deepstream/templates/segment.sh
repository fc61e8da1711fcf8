#!/bin/sh
# Segment a video with the classes of labels.txt: segment.sh SOURCE_URI OUTPUT.mp4
set -eu
if [ "$$#" -ne 2 ]; then
    echo "usage: $$0 SOURCE_URI OUTPUT.mp4, for example: $$0 file:///videos/street.mp4 seen.mp4" >&2
    exit 2
fi
case $$2 in /*) output=$$2 ;; *) output=$$PWD/$$2 ;; esac
cd "$$(dirname "$$0")"
exec gst-launch-1.0 -e \
    nvurisrcbin uri="$$1" ! mux.sink_0 \
    nvstreammux name=mux batch-size=1 width=1280 height=720 batched-push-timeout=40000 \
    ! nvinferserver config-file-path=config_infer_nerve.txt \
    ! nvsegvisual width=$width height=$height batch-size=1 \
    ! nvvideoconvert ! nvv4l2h264enc ! h264parse ! qtmux ! filesink location="$$output"
