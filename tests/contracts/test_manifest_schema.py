"""The JSON Schema in docs/ is the one that the code checks by: other languages read the same file."""

import json
import re

from nerve_runtime.bundle.manifest import Manifest
from tests.contracts.checkout import ROOT

SCHEMA = ROOT / "docs" / "manifest.schema.json"
WRITE_IT = "from nerve_runtime.bundle.manifest import Manifest; import json; print(json.dumps(Manifest.model_json_schema(), indent=2))"


def test_the_schema_of_the_manifest_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == Manifest.model_json_schema(), (
        f'write it again: python -c "{WRITE_IT}" > docs/manifest.schema.json'
    )


def test_every_field_of_the_manifest_is_in_the_bundle_format() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    table = text[text.index("## The manifest, line by line") : text.index("## Stages")]
    missing = [field for field in Manifest.model_fields if not re.search(rf"(?m)^\| [^|]*`{field}`[^|]*\|", table)]
    assert not missing, f"docs/bundle.md, 'The manifest, line by line', has no row for {missing}"
