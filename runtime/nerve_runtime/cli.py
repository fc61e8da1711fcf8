"""`nerve-segment`: label every pixel of videos, images or a camera with class names given in words."""

import logging
from typing import TYPE_CHECKING, cast

import typer

from nerve_runtime import cli_options as option
from nerve_runtime.cli_input import bundle_or_default, exit_codes, named_classes, template_lines

if TYPE_CHECKING:
    from nerve_runtime.backends import Providers

EXAMPLES = """\b
Examples:
  nerve-segment clip.mp4 --classes "ladybug; tennis ball, ball; grass" --overlay out.mp4
  nerve-segment photos/ --classes-file names.txt --masks masks/ --jsonl areas.jsonl --rle
  nerve-segment 0 --classes "zebra; watermelon" --background "grass, sky" --show --keyframe-every 8

Exit codes: 0 done, 2 usage, 3 bundle, 4 platform, 5 source, 6 memory or disk, 7 numbers, 8 hung, 130/143 signal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES)
def segment(
    sources: option.Sources,
    bundle: option.Bundle = None,
    classes: option.ClassesText = None,
    classes_file: option.ClassesFile = None,
    background: option.Background = "",
    vocabulary: option.VocabularyFile = None,
    templates: option.Templates = None,
    threshold: option.Threshold = None,
    alpha: option.Alpha = None,
    beta: option.Beta = None,
    overlay: option.Overlay = None,
    masks: option.Masks = None,
    jsonl: option.Jsonl = None,
    rle: option.Rle = False,
    backend: option.BackendName = "auto",
    providers: option.ProviderName = "cpu",
    threads: option.Threads = 0,
    spinning: option.Spinning = False,
    trust_engines: option.TrustEngines = False,
    allow_unchecked: option.AllowUnchecked = False,
    keyframe_every: option.KeyframeEvery = 1,
    limit: option.Limit = None,
    opacity: option.Opacity = 0.55,
    show: option.Show = False,
    force: option.Force = False,
    allow_partial: option.AllowPartial = False,
    json_lines: option.Json = False,
    strict: option.Strict = False,
    verbose: option.Verbose = False,
) -> None:
    """Label every pixel of SOURCES with class names given in words. Progress goes to stderr, paths written to stdout."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.DEBUG if verbose else logging.WARNING)
    with exit_codes(verbose=verbose):
        # Imported here so that --help answers without OpenCV and PyAV.
        from nerve_runtime.cli_run import Outputs, SourceOptions, announce, run_sources
        from nerve_runtime.segmenter import Constants, Segmenter

        opened = Segmenter.open(
            bundle_or_default(bundle),
            named_classes(classes, classes_file, vocabulary),
            background=[background] if background.strip() else (),
            backend=backend,
            providers=cast("Providers", providers),
            threads=threads,
            spinning=spinning,
            trust_engines=trust_engines,
            allow_unchecked=allow_unchecked,
            keyframe_every=keyframe_every,
            templates=template_lines(templates),
            constants=Constants(threshold=threshold, alpha=alpha, beta=beta),
            strict=strict,
        )
        with opened as segmenter:
            announce(segmenter)
            outputs = Outputs(overlay, masks, jsonl, rle, opacity, force)
            run_sources(segmenter, sources, outputs, SourceOptions(limit, allow_partial, show), json_lines=json_lines)


def main() -> None:
    """Entry point of `nerve-segment`."""
    app()
