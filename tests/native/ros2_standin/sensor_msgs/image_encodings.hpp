// Stands in for the header of the same name: the encodings that the node uses.
#pragma once
#include <string>

namespace sensor_msgs::image_encodings {
const std::string RGB8 = "rgb8", BGR8 = "bgr8", MONO8 = "mono8", MONO16 = "mono16";
}  // namespace sensor_msgs::image_encodings
