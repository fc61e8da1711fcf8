"""`nerve-vocab`: class names to a vocabulary file, so that a device needs neither tokenizer nor text graph."""

from pathlib import Path
from typing import Annotated

import typer

from nerve_stream.cli import options as option
from nerve_stream.cli.input import bundle_or_default, exit_codes, named_classes, template_lines
from nerve_stream.cli.segment import Version
from nerve_stream.redaction import readable

EXAMPLES = """\b
Example:
  nerve-vocab meadow.safetensors --classes "ladybug; road; sky" --bundle bundles/tiny
  nerve-segment meadow.mp4 --vocabulary meadow.safetensors --bundle bundles/tiny --overlay out.mp4"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES)
def write_vocabulary(
    output: Annotated[Path, typer.Argument(help="Vocabulary file to write, .safetensors; a few kilobytes a class.")],
    bundle: option.Bundle = None,
    classes: option.ClassesText = None,
    classes_file: option.ClassesFile = None,
    background: option.Background = "",
    templates: option.Templates = None,
    backend: option.BackendName = "auto",
    trust_engines: option.TrustEngines = False,
    allow_unchecked: option.AllowUnchecked = False,
    force: option.Force = False,
    strict: option.Strict = False,
    verbose: option.Verbose = False,
    _version: Version = False,
) -> None:
    """Embed class names with a bundle's text graph and write them to OUTPUT; it fits that bundle only."""
    with exit_codes(verbose=verbose):
        from nerve_runtime.atomic import refuse_existing
        from nerve_runtime.backends import BackendOptions, open_backend
        from nerve_runtime.bundle import load_manifest
        from nerve_runtime.vocabulary import TextEncoder, text_sha256
        from nerve_stream.cli.progress import EmbeddingBar
        from nerve_stream.vocabulary_file import save_vocabulary

        refuse_existing(output, force=force)
        folder = bundle_or_default(bundle, strict=strict)
        manifest = load_manifest(folder)
        if manifest.random_weights:
            typer.echo("random weights: labels mean nothing", err=True)
        options = BackendOptions(trust_engines=trust_engines, allow_unchecked=allow_unchecked)
        with open_backend(backend, folder, manifest, options) as opened_backend:
            encoder = TextEncoder(
                folder,
                manifest,
                opened_backend,
                templates=template_lines(templates),
                strict=strict,
                progress=EmbeddingBar(),
            )
            background_words = [readable(background)] if background.strip() else []
            bank = encoder.text_bank(named_classes(classes, classes_file, None), background_words)
        save_vocabulary(output, bank, text_sha256(manifest))
        typer.echo(str(output))


def main() -> None:
    """Entry point of `nerve-vocab`."""
    app()


if __name__ == "__main__":
    main()
