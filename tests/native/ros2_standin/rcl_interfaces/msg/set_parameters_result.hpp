// Stands in for the generated message of the same name, with the fields of its definition.
#pragma once
#include <string>

namespace rcl_interfaces::msg {
struct SetParametersResult {
    bool successful = false;
    std::string reason;
};
}  // namespace rcl_interfaces::msg
