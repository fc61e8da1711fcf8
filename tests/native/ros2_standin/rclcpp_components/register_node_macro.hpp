// Stands in for the header of the same name: the driver makes the registered node by a function.
#pragma once
#include <rclcpp/rclcpp.hpp>

#define RCLCPP_COMPONENTS_REGISTER_NODE(NodeClass)                                           \
    std::shared_ptr<rclcpp::Node> make_registered_node(const rclcpp::NodeOptions& options) { \
        return std::make_shared<NodeClass>(options);                                         \
    }
