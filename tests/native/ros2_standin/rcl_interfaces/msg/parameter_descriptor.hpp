// Stands in for the generated message of the same name: the fields that the node uses.
#pragma once
#include <string>

namespace rcl_interfaces::msg {
struct ParameterDescriptor {
    std::string name, description;
    bool read_only = false;
};
}  // namespace rcl_interfaces::msg
