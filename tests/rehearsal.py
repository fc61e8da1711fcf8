"""Build `edge` from the files of its repositories, in true number, names and size, over a hub that fails now and then.

    python -m tests.rehearsal build/rehearsal

The numbers in the tensors are random, so the labels mean nothing; everything else is what a user will see. Prints each
command and what it prints. Wants 20 GB of disk, 8 GB of memory and a quarter of an hour or more on two cores.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.data.hub_server import HubServer, serving
from tests.data.published_files import CONFIGS
from tests.data.published_hub import UNET, Configs, environment, publish

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TEXT_ENCODER, TAESD = "text_encoder/model.safetensors", "diffusion_pytorch_model.safetensors"
PHOTO = ROOT / "docs" / "images" / "coffee.jpg"
LOCK, BUNDLE = "edge.lock.json", "bundles/edge"
BUILD = ("nerve-build", "--preset", "edge", "--lock", LOCK)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, and what it printed on both streams."""

    code: int
    text: str


class Rehearsal:
    """A folder in which commands run as a user would type them, against the stand-in."""

    def __init__(self, hub: HubServer, folder: Path, configs: Configs) -> None:
        """Run in `folder`, which is emptied."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # A command in the background of a shell ignores Ctrl-C, and so would those that it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.hub, self.folder, self.configs = hub, folder.resolve(), configs
        self._environment = environment(hub, self.folder, configs)

    def run(self, *command: str, interrupt: bool = False) -> Ended:
        """Run a command and print it; with `interrupt` Ctrl-C is pressed when the hub has stalled."""
        _tell(f"\n$ {' '.join(word if ' ' not in word else repr(word) for word in command)}\n")
        began_s, lines = time.monotonic(), []
        running = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.folder,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert running.stdout is not None
        if interrupt:
            self.hub.stalled.wait()
            self._wait_for_bytes()
            running.send_signal(signal.SIGINT)
            self.hub.resumed.set()
        for line in running.stdout:
            lines.append(line.replace(str(self.folder), "~"))
            _tell(lines[-1])
        code = running.wait()
        _tell(f"(exit code {code}, {time.monotonic() - began_s:.0f} s)\n")
        return Ended(code, "".join(lines))

    def unfinished(self) -> list[Path]:
        """Files that are still being fetched."""
        return list((self.folder / "cache").rglob("*.unfinished"))

    def _wait_for_bytes(self) -> None:
        while not any(path.name.startswith(Path(UNET).name) and path.stat().st_size for path in self.unfinished()):
            os.sched_yield()

    def ranges(self, path: str) -> list[str]:
        """The range of each request for a file's content since the last `forget`."""
        ends = re.compile(f"/resolve/[0-9a-f]+/{re.escape(path)}$")
        return [asked for method, where, asked in self.hub.asked if method == "GET" and ends.search(where)]


def rehearse(hub: HubServer, folder: Path, configs: Configs = CONFIGS) -> None:
    """Lock, plan, interrupt, go on through every fault, build, build again, segment.

    Raises:
        AssertionError: a command did something else than it should.
    """
    stage = Rehearsal(hub, folder, configs)
    published = publish(hub, stage.folder / "served", configs)
    unet_bytes = int(getattr(published.files["stable-diffusion-2-1-base"][UNET], "size", 0))
    _lock_and_plan(stage, published.open_lock)
    _interrupt(stage, unet_bytes)
    _go_on(stage, unet_bytes)
    _again(stage)


def build_another(hub: HubServer, folder: Path, preset: str, configs: Configs) -> None:
    """Lock and build another preset from the hub, at a small size and without its faults.

    Raises:
        AssertionError: it was not built, or does not agree with the reference.
    """
    stage = Rehearsal(hub, folder, configs)
    _lock(stage, publish(hub, stage.folder / "served", configs, preset).open_lock)
    built = stage.run("nerve-build", "--preset", preset, "--lock", LOCK, "--locked", "--size", "128", "128")
    assert built.code == 0, built
    assert "comparisons passed" in built.text


def _lock(stage: Rehearsal, open_lock: Path) -> None:
    locked = stage.run("nerve-build", "lock", LOCK, "--source", str(open_lock.relative_to(stage.folder)))
    assert locked.code == 0, locked
    assert "not pinned" not in locked.text


def _lock_and_plan(stage: Rehearsal, open_lock: Path) -> None:
    _lock(stage, open_lock)
    planned = stage.run(*BUILD, "--dry-run")
    assert planned.code == 0, planned
    refused = stage.run(*BUILD, "--offline")
    assert refused.code == 3, refused
    assert "not downloaded before" in refused.text


def _interrupt(stage: Rehearsal, unet_bytes: int) -> None:
    """Ctrl-C in the middle of the UNet; before it the hub is busy twice."""
    stage.hub.busy[TEXT_ENCODER] = [(429, "1"), (503, "1")]
    stage.hub.stalls[UNET] = unet_bytes * 2 // 5
    stopped = stage.run(*BUILD, "--locked", interrupt=True)
    assert stopped.code != 0, stopped
    assert "what came is kept" in stopped.text
    assert stage.ranges(TEXT_ENCODER) == ["", "", ""]
    assert [path.name for path in stage.unfinished()] == [f"{Path(UNET).name}.unfinished"]


def _go_on(stage: Rehearsal, unet_bytes: int) -> None:
    """The rest, though the hub cuts the connection once and sends a wrong byte."""
    (unfinished,) = stage.unfinished()
    here = unfinished.stat().st_size
    stage.hub.asked.clear()
    stage.hub.cuts[UNET] = [unet_bytes // 5]
    stage.hub.flipped[TAESD] = [1_000_000]
    built = stage.run(*BUILD, "--locked")
    assert built.code == 0, built
    assert "comparisons passed" in built.text
    first, second = stage.ranges(UNET)
    assert first == f"bytes={here}-"
    assert here < int(second.removeprefix("bytes=").removesuffix("-")) <= here + unet_bytes // 5
    assert "is not the file that is pinned" in built.text
    assert stage.ranges(TAESD) == ["", ""]
    assert stage.ranges(TEXT_ENCODER) == []
    assert stage.unfinished() == []


def _again(stage: Rehearsal) -> None:
    stage.hub.asked.clear()
    again = stage.run(*BUILD, "--locked")
    assert again.code == 0, again
    assert "is up to date" in again.text
    assert stage.hub.asked == []
    shutil.copy(PHOTO, stage.folder)
    classes = "coffee; cup, mug; saucer, plate; spoon; table"
    seen = stage.run("nerve-segment", PHOTO.name, "--bundle", BUNDLE, "--classes", classes, "--overlay", "seen.png")
    assert seen.code == 0, seen


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Rehearse at true size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    with serving() as hub:
        rehearse(hub, parser.parse_args().folder)
    _tell("\nThe content of all weights was random: the labels of this bundle mean nothing.\n")


if __name__ == "__main__":
    main()
