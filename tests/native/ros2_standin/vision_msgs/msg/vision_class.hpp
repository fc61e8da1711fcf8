// Stands in for the generated message of the same name, with the fields of its definition.
#pragma once
#include <cstdint>
#include <string>

namespace vision_msgs::msg {
struct VisionClass {
    std::uint16_t class_id = 0;
    std::string class_name;
};
}  // namespace vision_msgs::msg
