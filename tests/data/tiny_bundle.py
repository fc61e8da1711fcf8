"""The bundles of the tiny preset for tests: built where they are missing or stale, which takes about a minute each."""

from pathlib import Path

from nerve_export.build import build
from nerve_export.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
MAX_BATCH = 4


def tiny_bundle_folder() -> Path:
    """`bundles/tiny` of this checkout, made by the code and the weights as they are now."""
    folder = ROOT / "bundles" / "tiny"
    plan = make_plan("tiny", out=folder)
    build(plan, ())
    return folder


def batch_bundle_folder() -> Path:
    """`bundles/tiny-batch`, the same for up to `MAX_BATCH` frames in a run."""
    folder = ROOT / "bundles" / "tiny-batch"
    build(make_plan("tiny", out=folder, max_batch=MAX_BATCH), ())
    return folder
