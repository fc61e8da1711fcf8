// Stands in for the generated message of the same name, with the fields of its definition.
#pragma once
#include <memory>
#include <std_msgs/msg/header.hpp>
#include <vector>
#include <vision_msgs/msg/vision_class.hpp>

namespace vision_msgs::msg {
struct LabelInfo {
    using ConstSharedPtr = std::shared_ptr<const LabelInfo>;

    std_msgs::msg::Header header;
    std::vector<VisionClass> class_map;
    float threshold = 0;
};
}  // namespace vision_msgs::msg
