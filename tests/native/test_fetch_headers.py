"""fetch_headers.sh gets the right headers or says in one sentence why not, and leaves nothing half done. No network."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.native.building import NATIVE

pytestmark = [pytest.mark.native, pytest.mark.slow]
SCRIPT = NATIVE / "tools" / "fetch_headers.sh"
ADVICE = (
    "; get the headers of an official ONNX Runtime release, 1.21 or later, and configure with "
    "-DONNXRUNTIME_INCLUDE_DIR=FOLDER\n"
)
APT_CONFIG = """#!/bin/sh
if [ "$1" = shell ]; then echo "SOURCE_LIST='$HERE/sources.list' SOURCE_PARTS='$HERE/parts/'"; fi
if [ "$1" = dump ]; then echo 'Acquire::Retries "3";'; echo 'APT::Update::Post-Invoke:: "echo hook";'; fi
"""
APT_GET = """#!/bin/sh
cat "$APT_CONFIG" "$(dirname "$APT_CONFIG")"/sources/* > "$HERE/asked"
case "$*" in
    *update) [ ! -e "$HERE/offline" ] || { echo 'E: Could not resolve the name'; exit 100; };;
    *download*) printf 'not the package' > libonnxruntime-dev.deb;;
esac
"""
DEB822 = """# a comment

Types: deb
URIs: http://mirror.example/other
Suites: stable
Components: main

Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /a/keyring.gpg
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with an apt of our own, which answers but has no packages."""
    for name in ("bin", "parts", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "parts" / "debian.sources").write_text(DEB822)
    for name, text in (("apt-config", APT_CONFIG), ("apt-get", APT_GET), ("dpkg-deb", "#!/bin/sh\nexit 1\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def fetch(machine: Path, destination: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script on such a machine."""
    environment = {**os.environ, "HERE": str(machine), "PATH": path or f"{machine / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), str(destination)], env=environment, capture_output=True, text=True, check=False
    )


def refusal(machine: Path, destination: Path, path: str | None = None) -> str:
    """The one line that it says when it fails, less the advice; nothing may be left behind."""
    before = set(Path("/tmp").glob("nerve-headers.*"))
    ended = fetch(machine, destination, path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.endswith(ADVICE)
    assert ended.stderr.count("\n") == 1
    assert list(destination.parent.glob(f"{destination.name}*")) == []
    assert set(Path("/tmp").glob("nerve-headers.*")) <= before
    return ended.stderr.removeprefix("error: ").removesuffix(ADVICE)


def test_a_package_that_is_not_the_pinned_one_is_refused(machine: Path) -> None:
    said = refusal(machine, machine / "with a space")
    assert said.startswith("the package libonnxruntime-dev=1.21.0+dfsg-1 has SHA-256 ")
    assert said.endswith(", expected 14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08")


def test_a_missing_network_is_said_in_apt_s_words(machine: Path) -> None:
    (machine / "offline").touch()
    said = refusal(machine, machine / "headers")
    assert said == "apt could not download libonnxruntime-dev=1.21.0+dfsg-1 (E: Could not resolve the name)"


def test_a_missing_apt_is_named(machine: Path) -> None:
    only = machine / "only"
    only.mkdir()
    for tool in ("rmdir", "sha256sum", "mktemp", "rm"):
        (only / tool).symlink_to(f"/usr/bin/{tool}")
    said = refusal(machine, machine / "headers", str(only))
    assert said == "apt-config is missing, with which the headers are downloaded"


def test_a_machine_without_debian_s_archive_is_told_so(machine: Path) -> None:
    (machine / "parts" / "debian.sources").write_text(DEB822.replace("/debian\n", "/ubuntu\n"))
    assert refusal(machine, machine / "headers") == "apt on this machine has no source of Debian's archive"


def test_only_debian_s_source_is_asked_with_trixie_s_suite_and_none_of_the_machine_s_hooks(machine: Path) -> None:
    refusal(machine, machine / "headers")
    asked = (machine / "asked").read_text()
    assert (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\nSigned-By: /a/key" in asked
    )
    assert "/other" not in asked
    assert 'Acquire::Retries "3";' in asked
    assert "hook" not in asked


def test_a_source_of_the_older_format_does_too(machine: Path) -> None:
    (machine / "parts" / "debian.sources").unlink()
    (machine / "sources.list").write_text(
        "# a comment\ndeb-src http://a.example/debian x main\n"
        "deb [signed-by=/a/key.gpg] http://mirror.example/debian/ bookworm main contrib\n"
    )
    refusal(machine, machine / "headers")
    asked = (machine / "asked").read_text()
    assert asked.endswith("deb [signed-by=/a/key.gpg] http://mirror.example/debian/ trixie main\n")


def test_headers_that_are_there_are_kept_without_a_question(machine: Path) -> None:
    (machine / "headers").mkdir()
    (machine / "headers" / "onnxruntime_c_api.h").touch()
    ended = fetch(machine, machine / "headers")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not (machine / "asked").exists()


def test_a_folder_with_something_else_is_left_alone(machine: Path) -> None:
    (machine / "headers").mkdir()
    (machine / "headers" / "mine.txt").touch()
    ended = fetch(machine, machine / "headers")
    assert ended.returncode == 1
    assert "headers exists but has no onnxruntime_c_api.h;" in ended.stderr
    assert (machine / "headers" / "mine.txt").exists()
