"""The doctor's rules over facts given by hand, and a look at this machine that imports nothing heavy."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nerve_export.doctor import checks as doctor_module
from nerve_export.doctor.checks import gather_facts, parsed_gpus, parsed_jetpack
from nerve_export.doctor.rules import EXPORT_PACKAGES, GB, REPORTED, Facts, Gpu, abilities, findings, version_numbers
from nerve_runtime.errors import CompatibilityError

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "polygraphy", "transformers", "cv2")
EXPORT = {
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "diffusers": "0.42.1",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "safetensors": "0.8.0",
    "jaxtyping": "0.3.11",
    "huggingface_hub": "2.4.0",
}
WORKSTATION = Facts(
    python=(3, 11, 7),
    system="Linux x86_64",
    packages={
        **EXPORT,
        "onnxruntime": "1.31.1",
        "tensorrt-rtx": "1.7.1.116",
        "cuda-bindings": "13.5.0",
        "polygraphy": "0.53.6",
        "opencv-python-headless": "5.0.0.93",
    },
    gpus=(Gpu("NVIDIA L4", "sm89", 24 * GB),),
    driver="570.1",
    memory_bytes=32 * GB,
    free_memory_bytes=30 * GB,
    free_disk_bytes=100 * GB,
)
ORIN = Gpu("NVIDIA Jetson AGX Orin", "sm87", None)
H100 = Gpu("NVIDIA H100", "sm90", 80 * GB)
THOR = Gpu("NVIDIA Thor", "sm110", None)


def with_packages(facts: Facts = WORKSTATION, without: tuple[str, ...] = (), **added: str) -> Facts:
    kept = {name: number for name, number in facts.packages.items() if name not in without}
    return replace(facts, packages={**kept, **{name.replace("_", "-"): number for name, number in added.items()}})


def message_about(facts: Facts, about: str) -> str:
    """Everything that is found about one thing, as text."""
    found = [f"{one.level}: {one.says} -> {one.do}" for one in findings(facts) if one.about == about]
    return "\n".join(found)


def possible(facts: Facts) -> set[str]:
    return {one.what for one in abilities(facts) if one.possible}


def test_on_a_whole_workstation_there_is_nothing_to_do() -> None:
    assert findings(WORKSTATION) == ()
    assert possible(WORKSTATION) == {
        "graphs of preset tiny",
        "graphs at true size (sd21)",
        "engines with TensorRT-RTX",
        "graphs on the processor",
        "engines of tensorrt-rtx",
    }


@pytest.mark.parametrize("gpu", [ORIN, H100, THOR])
def test_tensorrt_rtx_has_no_target_for_these_gpus(gpu: Gpu) -> None:
    facts = replace(WORKSTATION, gpus=(gpu,))
    assert message_about(facts, "tensorrt-rtx").startswith(
        f"problem: TensorRT-RTX has no target for {gpu.name} ({gpu.capability})"
    )
    assert "--target tensorrt" in message_about(facts, "tensorrt-rtx")
    assert "engines of tensorrt-rtx" not in possible(facts)
    assert "engines with TensorRT-RTX" in possible(facts)  # for other machines


@pytest.mark.parametrize("capability", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_tensorrt_rtx_runs_on_these_gpus(capability: str) -> None:
    facts = replace(WORKSTATION, gpus=(Gpu("GPU", capability, None),))
    assert message_about(facts, "tensorrt-rtx") == ""
    assert "engines of tensorrt-rtx" in possible(facts)


def test_an_h100_with_tensorrt_beside_tensorrt_rtx_is_fine() -> None:
    facts = with_packages(replace(WORKSTATION, gpus=(H100,)), tensorrt="10.16.0", cuda_python="13.0.1")
    assert message_about(facts, "tensorrt-rtx") == ""
    assert "engines with TensorRT" in possible(facts)
    assert "engines of tensorrt" in possible(facts)


def test_both_onnxruntime_wheels_are_wrong() -> None:
    facts = with_packages(onnxruntime_gpu="1.31.1")
    assert "onnxruntime and onnxruntime-gpu are both installed" in message_about(facts, "onnxruntime")
    assert "graphs on the processor" not in possible(facts)


def test_tensorrt_10_3_gets_opset_20() -> None:
    old = with_packages(tensorrt="10.3.0", cuda_python="12.6.0")
    assert "cannot parse the Attention operation of opset 23 -> build the bundle with --opset 20" in message_about(
        old, "tensorrt"
    )
    assert message_about(with_packages(tensorrt="10.13.3", cuda_python="12.6.0"), "tensorrt") != ""
    assert message_about(with_packages(tensorrt="10.14.1", cuda_python="12.6.0"), "tensorrt") == ""
    assert message_about(with_packages(tensorrt="11.4.0", cuda_python="13.0.0"), "tensorrt") == ""


def test_cuda_python_of_another_major_than_tensorrts_cuda_is_wrong() -> None:
    facts = with_packages(tensorrt="10.16.0", tensorrt_cu12="10.16.0", cuda_python="13.0.1")
    assert "is built for CUDA 12, cuda-python is 13.0.1 for CUDA 13" in message_about(facts, "cuda-python")
    assert "pip install 'cuda-python==12.*'" in message_about(facts, "cuda-python")
    assert (
        message_about(with_packages(tensorrt="10.16.0", tensorrt_cu13="10.16.0", cuda_python="13.0.1"), "cuda-python")
        == ""
    )


def test_engines_without_cuda_python_cannot_run() -> None:
    facts = with_packages(without=("cuda-bindings",))
    assert "engines can be built, but not run" in message_about(facts, "cuda-python")
    assert "engines of tensorrt-rtx" not in possible(facts)
    assert "engines with TensorRT-RTX" in possible(facts)


def test_libraries_that_the_cuda_provider_lacks_are_named() -> None:
    facts = replace(
        with_packages(without=("onnxruntime",), onnxruntime_gpu="1.31.1"), missing_libraries=("libcudnn.so.9",)
    )
    assert "its CUDA provider needs libcudnn.so.9, not found" in message_about(facts, "onnxruntime-gpu")
    assert "graphs on the GPU" not in possible(facts)
    assert "graphs on the GPU" in possible(replace(facts, missing_libraries=()))


def test_python_3_10_has_no_onnxruntime_new_enough() -> None:
    facts = replace(with_packages(without=("onnxruntime",)), python=(3, 10, 12))
    assert "has no wheel for Python 3.10" in message_about(facts, "onnxruntime")
    assert "nerve-build engines" in message_about(facts, "onnxruntime")
    assert "pip install 'nerve-deploy[ort-gpu]'" in message_about(
        with_packages(without=("onnxruntime",)), "onnxruntime"
    )
    no_gpu = replace(with_packages(without=("onnxruntime",)), gpus=())
    assert "pip install 'nerve-deploy[ort]'" in message_about(no_gpu, "onnxruntime")


def test_less_than_14_gb_of_memory_is_too_little_for_sd21() -> None:
    facts = replace(WORKSTATION, memory_bytes=8 * GB)
    assert "8.0 GB of memory; presets of true size such as sd21 take up to 14 GB" in message_about(facts, "memory")
    assert "graphs at true size (sd21)" not in possible(facts)
    assert "graphs of preset tiny" in possible(facts)


def test_a_full_disk_is_told() -> None:
    facts = replace(WORKSTATION, free_disk_bytes=GB)
    assert "1.0 GB free here" in message_about(facts, "disk")
    assert "graphs at true size (sd21)" not in possible(facts)


def test_two_opencvs_are_wrong_and_none_is_missing() -> None:
    assert "overwrite each other's files" in message_about(with_packages(opencv_python="4.12.0"), "opencv")
    assert "no OpenCV is installed" in message_about(with_packages(without=("opencv-python-headless",)), "opencv")


@pytest.mark.parametrize("name", EXPORT_PACKAGES)
def test_each_package_that_exporting_needs_is_missed_by_name(name: str) -> None:
    facts = with_packages(without=(name,))
    assert f"graphs cannot be built: {name} is not installed" in message_about(facts, "export")
    assert "graphs of preset tiny" not in possible(facts)


def test_what_is_too_old_is_named_with_what_is_needed() -> None:
    assert "torch 2.4.1 is too old, expected 2.9 or newer" in message_about(with_packages(torch="2.4.1"), "torch")
    assert "onnxruntime 1.20.1 is too old, expected 1.23" in message_about(
        with_packages(onnxruntime="1.20.1"), "onnxruntime"
    )


def test_parity_needs_polygraphy() -> None:
    assert "pip install 'nerve-deploy[parity]'" in message_about(with_packages(without=("polygraphy",)), "polygraphy")


def test_a_jetson_gets_the_way_to_its_engines() -> None:
    facts = Facts(
        python=(3, 10, 12),
        system="Linux aarch64",
        packages={"tensorrt": "10.3.0", "opencv-python-headless": "4.10.0"},
        gpus=(ORIN,),
        jetpack="R36.4.3",
        memory_bytes=8 * GB,
        free_disk_bytes=20 * GB,
    )
    assert "nerve-build engines BUNDLE --target tensorrt" in message_about(facts, "jetpack")
    assert "--opset 20" in message_about(facts, "tensorrt")
    assert possible(facts) == {"engines with TensorRT"}
    assert possible(with_packages(facts, cuda_python="12.6.0")) == {"engines with TensorRT", "engines of tensorrt"}


def test_a_gpu_without_any_library_gets_the_one_that_fits_it() -> None:
    bare = with_packages(without=("tensorrt-rtx",))
    assert "pip install 'nerve-deploy[rtx]'" in message_about(bare, "engines")
    assert "pip install 'nerve-deploy[trt]'" in message_about(replace(bare, gpus=(H100,)), "engines")


def test_the_worst_comes_first() -> None:
    facts = replace(with_packages(without=("polygraphy",), opencv_python="4.12.0"), memory_bytes=8 * GB)
    assert [one.level for one in findings(facts)] == ["problem", "missing", "note"]


def test_where_nothing_can_be_done_the_command_ends_with_exit_code_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = Facts(python=(3, 12, 0), system="Linux x86_64", packages={})
    monkeypatch.setattr(doctor_module, "gather_facts", lambda: nothing)
    with pytest.raises(CompatibilityError, match=r"nothing can be built or run here"):
        doctor_module.doctor(as_json=False)
    assert "pip install 'nerve-deploy[ort]'" in capsys.readouterr().out
    assert CompatibilityError.exit_code == 4


def test_every_line_of_json_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_module, "gather_facts", lambda: replace(WORKSTATION, memory_bytes=8 * GB))
    monkeypatch.chdir(tmp_path)
    doctor_module.doctor(as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["kind"] for line in lines} == {"facts", "ability", "finding", "weights", "extra"}
    assert lines[0]["packages"]["onnx"] == "1.23.2"


def test_nvidia_smis_answer_is_read() -> None:
    gpus, driver = parsed_gpus("NVIDIA H200, 9.0, 143771, 570.86.15\nNVIDIA L4, 8.9, 23034, 570.86.15\n")
    assert [(gpu.name, gpu.capability) for gpu in gpus] == [("NVIDIA H200", "sm90"), ("NVIDIA L4", "sm89")]
    assert gpus[0].memory_bytes == 143771 * 2**20
    assert driver == "570.86.15"
    assert parsed_gpus("NVIDIA-SMI has failed\n") == ((), None)
    assert parsed_gpus("Old GPU, [N/A], [N/A], 470.1")[0] == (Gpu("Old GPU", None, None),)


def test_the_jetson_release_is_read() -> None:
    assert parsed_jetpack("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic") == "R36.4.3"
    assert parsed_jetpack("something else") == "unknown"


@pytest.mark.parametrize(
    ("text", "numbers"), [("10.3.0", (10, 3, 0)), ("2.13.0+cpu", (2, 13, 0)), ("5.0.0.93", (5, 0, 0, 93)), ("", ())]
)
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


def test_this_machine_is_looked_at_without_importing_what_is_asked_about() -> None:
    program = (
        "import sys; from nerve_export.doctor.checks import gather_facts; facts = gather_facts(); "
        f"print(facts.python[0], sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "3 []\n"


def test_this_machines_facts_are_plausible() -> None:
    facts = gather_facts()
    assert facts.python == sys.version_info[:3]
    assert set(facts.packages) <= set(REPORTED)
    assert facts.memory_bytes > facts.free_memory_bytes > 0
    assert facts.free_disk_bytes > 0
