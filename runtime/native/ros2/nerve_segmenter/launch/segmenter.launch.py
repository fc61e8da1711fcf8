"""Start the segmenter on a camera's images.

ros2 launch nerve_segmenter segmenter.launch.py bundle:=/opt/bundles/fast image:=/camera/image_raw classes:="road; car"
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "bundle": (None, "folder with manifest.json"),
    "classes": ("", "such as 'zebra; soccer ball, football; grass', synonyms after commas"),
    "background": ("", "words for everything else, which become class 0"),
    "vocabulary": ("", "vocabulary file, instead of classes"),
    "onnxruntime": ("", "path of libonnxruntime.so; empty: as the system finds libraries"),
    "provider": ("cpu", "cpu, cuda or tensorrt"),
}


def generate_launch_description() -> LaunchDescription:
    """One node, with a launch argument for each parameter that a machine or a task differs in."""
    texts = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in ARGUMENTS}
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            DeclareLaunchArgument("image", default_value="image", description="topic of the camera"),
            Node(
                package="nerve_segmenter",
                executable="segmenter",
                name="segmenter",
                parameters=[texts],
                remappings=[("image", LaunchConfiguration("image"))],
                output="screen",
            ),
        ]
    )
