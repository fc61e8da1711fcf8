"""The bundle of the tiny preset for tests: built where it is missing or stale, which takes about a minute."""

from pathlib import Path

from nerve_export.build import build
from nerve_export.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]


def tiny_bundle_folder() -> Path:
    """`bundles/tiny` of this checkout, made by the code and the weights as they are now."""
    folder = ROOT / "bundles" / "tiny"
    plan = make_plan("tiny", out=folder)
    build(plan, ())
    return folder
