"""The ROS 2 node, built and run against stand-in headers: there is no ROS 2 where these tests run."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.native.programs import (
    ASAN,
    HERE,
    NATIVE,
    TSAN,
    Library,
    compiled,
    fake_bundle,
    linked,
    opencv_flags,
    real_library,
    run,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]

PACKAGE = NATIVE / "ros2" / "nerve_segmenter"
SOURCES = (PACKAGE / "src" / "segmenter_node.cpp", HERE / "ros2_driver.cc")
STANDIN = f"-I{HERE / 'ros2_standin'}"


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of the node published and logged.

    Attributes:
        messages: what the driver printed, in order.
        log: stderr.
    """

    messages: list[dict[str, Any]]
    log: str

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["topic"] == topic]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The node with the fake library, under the address and undefined behaviour sanitizers."""
    flags = opencv_flags("imgproc", "video", "core")
    output = tmp_path_factory.mktemp("ros2") / "node"
    return compiled(output, (*SOURCES, HERE / "fake_nerve.cc"), "-std=c++17", STANDIN, *ASAN, *flags)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fake_bundle(tmp_path)


def _run(
    node: Path, commands: str, *parameters: str, environment: Mapping[str, str] | None = None, code: int = 0
) -> Run:
    stdin = "\n".join(line.strip() for line in commands.strip().splitlines()) + "\n"
    output, log = run([str(node), *parameters], stdin=stdin.encode(), environment=environment, code=code)
    return Run([json.loads(line) for line in output.decode().splitlines()], log)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_images_become_labels_with_the_same_header(node: Path, bundle: Path, encoding: str) -> None:
    done = _run(node, f"image 8 4 {encoding} 3\nwait 1", f"bundle={bundle}", "classes=a; b; c")
    (labels,) = done.of("labels")
    assert (labels["width"], labels["height"], labels["encoding"]) == (8, 4, "mono8")
    assert (labels["step"], labels["bytes"], labels["sec"], labels["frame_id"]) == (8, 32, 3, "camera")
    assert labels["row"] == [(column + 3) % 3 for column in range(8)]


def test_labels_beyond_254_classes_are_mono16_of_this_machines_byte_order(node: Path, bundle: Path) -> None:
    classes = "; ".join(f"class {number}" for number in range(300))
    done = _run(node, "image 8 4 rgb8 3\nwait 1", f"bundle={bundle}", f"classes={classes}")
    (labels,) = done.of("labels")
    assert (labels["encoding"], labels["step"], labels["bytes"]) == ("mono16", 16, 64)
    order = ">u2" if labels["bigendian"] else "<u2"
    assert np.frombuffer(bytes(labels["row"]), dtype=order).tolist() == list(range(3, 11))


def test_overlays_have_the_colours_and_the_encoding_of_the_image(node: Path, bundle: Path, tmp_path: Path) -> None:
    commands = f"""
        image 8 4 rgb8 3
        wait 1
        save {tmp_path / "rgb.ppm"}
        image 8 4 bgr8 3
        wait 2
        save {tmp_path / "bgr.ppm"}
    """
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b; c", "keyframe_every=1", "between=warm")
    assert [overlay["encoding"] for overlay in done.of("overlay")] == ["rgb8", "bgr8"]
    rgb, swapped = cv2.imread(str(tmp_path / "rgb.ppm")), cv2.imread(str(tmp_path / "bgr.ppm"))
    assert rgb is not None
    assert swapped is not None
    assert len(np.unique(rgb.reshape(-1, 3) // 32, axis=0)) == 3  # one colour for each label
    # The driver's own pixels: what is red is blue in the other.
    own = 0.45 * np.arange(3, 11)
    assert np.abs(rgb[0, 3::3, 2] - rgb[0, 0, 2] - (own[3::3] - own[0])).max() <= 1
    assert np.abs(swapped[0, 3::3, 0] - swapped[0, 0, 0].astype(int) - (own[3::3] - own[0])).max() <= 1


def test_the_background_is_not_coloured(node: Path, bundle: Path) -> None:
    done = _run(node, "image 8 4 rgb8 3\nwait 1", f"bundle={bundle}", "classes=a; b", "background=sky")
    (labels,), (overlay,) = done.of("labels"), done.of("overlay")
    pixels = np.array(overlay["row"]).reshape(8, 3)
    assert [pixels[column].tolist() == [column + 3, 40, 40] for column in range(8)] == [
        label == 0 for label in labels["row"]
    ]


def test_names_reach_who_subscribes_late(node: Path, bundle: Path) -> None:
    commands = """
        set classes x; y
        late
    """
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b; c", "background=sky")
    assert [info["names"] for info in done.of("label_info")] == [
        {"0": "background", "1": "a", "2": "b", "3": "c"},
        {"0": "background", "1": "x", "2": "y"},
    ]
    assert [info["names"] for info in done.of("late")] == [{"0": "background", "1": "x", "2": "y"}]


def test_classes_change_while_the_node_runs(node: Path, bundle: Path) -> None:
    commands = """
        image 8 4 rgb8 3
        wait 1
        set classes a; b; c; d; e
        image 8 4 rgb8 3
        wait 2
    """
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b")
    before, after = done.of("labels")
    assert max(before["row"]) == 1
    assert max(after["row"]) == 4
    assert done.of("set")[0]["successful"]


def test_a_bad_list_is_refused_with_the_librarys_text_and_the_old_classes_stay(node: Path, bundle: Path) -> None:
    commands = """
        set classes only one
        image 8 4 rgb8 3
        wait 1
        late
    """
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b; c")
    (answer,) = done.of("set")
    assert not answer["successful"]
    assert answer["reason"] == "one class alone; name at least two classes, such as 'dog; grass'"
    assert answer["value"] == "a; b; c"
    assert done.of("labels")[0]["row"] == [column % 3 for column in range(3, 11)]
    assert done.of("late")[0]["names"] == {"0": "a", "1": "b", "2": "c"}


@pytest.mark.parametrize("name", ["bundle", "vocabulary", "onnxruntime", "provider", "between"])
def test_the_other_parameters_are_read_at_the_start_only(node: Path, bundle: Path, name: str) -> None:
    done = _run(node, f"set {name} else", f"bundle={bundle}", "classes=a; b")
    assert not done.of("set")[0]["successful"]
    assert "read-only" in done.of("set")[0]["reason"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["classes=a; b"], "parameter bundle is empty, expected a bundle's folder"),
        (["bundle=/nowhere", "classes=a; b"], "/nowhere has no manifest.json; name a bundle's folder"),
        (["bundle=BUNDLE"], "classes: an empty word; expected a name, check the separators ';' and ','"),
        (
            ["bundle=BUNDLE", "classes=a; b", "provider=gpu"],
            "provider is 'gpu', expected one of cpu, cuda, tensorrt, tensorrt_native",
        ),
        (
            ["bundle=BUNDLE", "classes=a; b", "between=never"],
            "between is 'never', expected one of exact, follow, hold, warm",
        ),
        (
            ["bundle=BUNDLE", "classes=a; b", "keyframe_every=-5"],
            "keyframe-every is 0, expected 1 or more frames",
        ),
    ],
)
def test_a_node_that_cannot_work_does_not_start(node: Path, bundle: Path, parameters: list[str], message: str) -> None:
    given = [parameter.replace("BUNDLE", str(bundle)) for parameter in parameters]
    assert f"the node did not start: {message}\n" in _run(node, "", *given, code=1).log


def test_a_vocabulary_stands_for_classes(node: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "words.nerve").write_text("background\nroad\ncar\n")
    done = _run(node, "", f"bundle={bundle}", f"vocabulary={tmp_path / 'words.nerve'}")
    assert done.of("label_info")[0]["names"] == {"0": "background", "1": "road", "2": "car"}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("8 4 yuv422 1", "the image has the encoding 'yuv422', expected rgb8, bgr8 or mono8; convert it before"),
        ("8 4 rgb8 1 6", "the image of 8 x 4 pixels has 110 bytes in rows of 29, expected all of its pixels"),
        ("0 4 rgb8 1", "the image of 0 x 4 pixels has 20 bytes in rows of 5, expected all of its pixels"),
        ("8 0 rgb8 1", "the image of 8 x 0 pixels has 0 bytes in rows of 29, expected all of its pixels"),
    ],
)
def test_a_bad_image_is_told_and_the_next_one_is_labelled(node: Path, bundle: Path, image: str, message: str) -> None:
    done = _run(node, f"image {image}\nsleep 300\nimage 8 4 rgb8 3\nwait 1", f"bundle={bundle}", "classes=a; b")
    assert f"[ERROR] [segmenter]: {message}\n" in done.log
    assert [labels["sec"] for labels in done.of("labels")] == [3]


def test_the_last_row_may_end_with_its_pixels(node: Path, bundle: Path) -> None:
    done = _run(node, "image 8 4 rgb8 3 5\nwait 1", f"bundle={bundle}", "classes=a; b")
    assert len(done.of("labels")) == 1


def test_an_error_of_the_library_costs_frames_only_while_it_lasts(node: Path, bundle: Path) -> None:
    how = {"NERVE_FAKE_FAIL": "nerve_segment=6:memory ran out"}
    done = _run(node, "image 8 4 rgb8 3\nsleep 300", f"bundle={bundle}", "classes=a; b", environment=how)
    assert "[ERROR] [segmenter]: memory ran out\n" in done.log
    assert done.of("labels") == []


def test_the_newest_image_wins_and_the_executor_never_waits(node: Path, bundle: Path) -> None:
    images = "image 8 4 rgb8 0\nsleep 150\n" + "\n".join(f"image 8 4 rgb8 {second}" for second in range(1, 20))
    done = _run(
        node, f"{images}\nwait 2\nimage 8 4 rgb8 99\nwait 3", f"bundle={bundle}", "classes=a; b",
        environment={"NERVE_FAKE_MS": "300"},
    )  # fmt: skip
    assert [labels["sec"] for labels in done.of("labels")] == [0, 19, 99]
    assert max(sent["ms"] for sent in done.of("sent")) < 100
    assert re.findall(r"dropped (\d+) of (\d+) images", done.log) == [("18", "20")]


def test_classes_change_within_a_frame_although_images_never_stop(node: Path, bundle: Path) -> None:
    images = "\n".join(f"image 8 4 rgb8 {second}\nsleep 5" for second in range(60))
    commands = f"{images}\nset classes x; y\nset classes v; w\n{images}"
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b", environment={"NERVE_FAKE_MS": "100"})
    assert [answer["successful"] for answer in done.of("set")] == [True, True]
    assert max(answer["ms"] for answer in done.of("set")) < 350  # a frame is 100, and sanitizers take their time


def test_a_node_that_is_destroyed_stops_the_frame_under_way(node: Path, bundle: Path) -> None:
    slow = {"NERVE_FAKE_MS": "1000000"}
    done = _run(node, "image 8 4 rgb8 3\nsleep 200", f"bundle={bundle}", "classes=a; b", environment=slow)
    assert done.of("labels") == []


def test_motion_and_time_are_given_to_the_library(node: Path, bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "frames.log"
    commands = "\n".join(f"image 64 48 bgr8 {second}\nwait {second}" for second in (1, 2, 3))
    _run(node, commands, f"bundle={bundle}", "classes=a; b", environment={"NERVE_FAKE_LOG": str(log)})
    frames = [json.loads(line) for line in log.read_text().splitlines()]
    assert [frame["time_s"] for frame in frames] == [1, 2, 3]
    assert [frame["flow"] is None for frame in frames] == [True, False, False]
    assert [frame["format"] for frame in frames] == [1, 1, 1]


def test_threads_do_not_race(bundle: Path, tmp_path: Path) -> None:
    flags = opencv_flags("imgproc", "video", "core")
    node = compiled(tmp_path / "node", (*SOURCES, HERE / "fake_nerve.cc"), "-std=c++17", STANDIN, *TSAN, *flags)
    (tmp_path / "suppressions").write_text("race:libopencv_\nrace:libtbb\ncalled_from_lib:libtbb.so\n")
    images = "\n".join(f"image 32 24 rgb8 {second}\nsleep 2" for second in range(40))
    commands = f"{images}\nset classes x; y\n{images}\nset classes only one\nlate\n{images}"
    environment = {"NERVE_FAKE_MS": "5", "TSAN_OPTIONS": f"suppressions={tmp_path / 'suppressions'}"}
    done = _run(node, commands, f"bundle={bundle}", "classes=a; b", environment=environment)
    assert "ThreadSanitizer" not in done.log
    assert len(done.of("labels")) > 10


def test_the_node_runs_with_the_library_itself(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    library: Library = real_library(request)
    flags = opencv_flags("imgproc", "video", "core")
    node = compiled(tmp_path / "node", SOURCES, "-std=c++17", "-O2", STANDIN, *flags, *linked(library))
    commands = """
        image 128 96 rgb8 3
        wait 1
        set classes only one
        set classes ladybug; sky; sand
        image 128 96 rgb8 4
        wait 2
    """
    onnxruntime = library.environment["NERVE_ONNXRUNTIME"]
    given = (f"bundle={library.bundle}", f"onnxruntime={onnxruntime}", "classes=ladybug; grass")
    done = _run(node, commands, *given)
    assert [info["names"] for info in done.of("label_info")] == [
        {"0": "ladybug", "1": "grass"},
        {"0": "ladybug", "1": "sky", "2": "sand"},
    ]
    assert [answer["successful"] for answer in done.of("set")] == [False, True]
    assert [len(labels["row"]) for labels in done.of("labels")] == [128, 128]
    assert max(done.of("labels")[1]["row"]) <= 2


def test_the_package_names_what_the_node_includes() -> None:
    source = SOURCES[0].read_text()
    included = set(re.findall(r"#include <(\w+)/", source)) - {"nerve", "opencv2"}
    manifest = ET.parse(PACKAGE / "package.xml").getroot()  # our own file
    depends = {element.text for element in manifest.findall("depend")}
    assert included <= depends
    assert depends - included == {"libopencv-dev"}
    cmake = (PACKAGE / "CMakeLists.txt").read_text()
    for name in included:
        assert f"find_package({name} REQUIRED)" in cmake
    assert manifest.findtext("name") == "nerve_segmenter"
    assert "project(nerve_segmenter" in cmake
    assert 'PLUGIN "nerve_ros::SegmenterNode"' in cmake
    assert "RCLCPP_COMPONENTS_REGISTER_NODE(nerve_ros::SegmenterNode)" in source


def test_the_launch_file_sets_parameters_that_the_node_declares() -> None:
    launch = (PACKAGE / "launch" / "segmenter.launch.py").read_text()
    compile(launch, "segmenter.launch.py", "exec")
    arguments = set(re.findall(r'^    "(\w+)": \(', launch, re.MULTILINE))
    declared = set(re.findall(r'declare_\w+<[\w:]+>\("(\w+)"', SOURCES[0].read_text()))
    assert len(arguments) == 6
    assert arguments <= declared
