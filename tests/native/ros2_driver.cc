// Runs the registered node under the stand-in by commands on stdin, and prints what it publishes, one JSON object a line.
// Its own thread is the executor of the node. Arguments: parameter=value.
//
//     image WIDTH HEIGHT ENCODING SECONDS [BYTES_MISSING]   red grows by 1 a column, from the number of seconds
//     set NAME VALUE...                                     a parameter
//     wait COUNT                                            until so many labels came, 20 seconds at most
//     late                                                  subscribe to label_info anew, as a node that starts later
//     save PATH                                             the latest overlay as PPM, or as it is
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <rclcpp/rclcpp.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <vision_msgs/msg/label_info.hpp>

std::shared_ptr<rclcpp::Node> make_registered_node(const rclcpp::NodeOptions& options);

namespace {

using sensor_msgs::msg::Image;
using vision_msgs::msg::LabelInfo;

std::mutex mutex;
std::atomic<int> labels_count{0};
std::shared_ptr<const Image> overlay;

std::string quoted(const std::string& text) {
    std::string json = "\"";
    for (char character : text)
        json += character == '"' || character == '\\' ? std::string("\\") + character : std::string(1, character);
    return json + "\"";
}

void print(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::puts(line.c_str());
    std::fflush(stdout);
}

void print_image(const char* topic, const Image& image) {
    std::ostringstream row;
    for (std::size_t byte = 0; byte < image.step && byte < image.data.size(); ++byte)
        row << (byte ? ", " : "") << int{image.data[byte]};
    print("{\"topic\": \"" + std::string(topic) + "\", \"width\": " + std::to_string(image.width) +
          ", \"height\": " + std::to_string(image.height) + ", \"encoding\": " + quoted(image.encoding) +
          ", \"step\": " + std::to_string(image.step) + ", \"bytes\": " + std::to_string(image.data.size()) +
          ", \"bigendian\": " + std::to_string(image.is_bigendian) + ", \"sec\": " + std::to_string(image.header.stamp.sec) +
          ", \"frame_id\": " + quoted(image.header.frame_id) + ", \"row\": [" + row.str() + "]}");
}

void print_names(const char* topic, const LabelInfo& info) {
    std::string names;
    for (const auto& entry : info.class_map)
        names += (names.empty() ? "" : ", ") + quoted(std::to_string(entry.class_id)) + ": " + quoted(entry.class_name);
    print("{\"topic\": \"" + std::string(topic) + "\", \"names\": {" + names + "}}");
}

Image make_image(std::istringstream& words) {
    Image image;
    std::size_t missing = 0;
    words >> image.width >> image.height >> image.encoding >> image.header.stamp.sec >> missing;
    image.header.frame_id = "camera";
    const std::uint32_t channels = image.encoding == "mono8" ? 1 : 3;
    const std::uint32_t red = image.encoding == "bgr8" ? 2 : 0;
    image.step = image.width * channels + 5;  // rows with a gap
    image.data.assign(std::size_t{image.step} * image.height, 40);
    for (std::uint32_t row = 0; row < image.height; ++row)
        for (std::uint32_t column = 0; column < image.width; ++column)
            image.data[row * image.step + column * channels + red] =
                static_cast<std::uint8_t>(column + static_cast<std::uint32_t>(image.header.stamp.sec));
    image.data.resize(image.data.size() - missing);
    return image;
}

void set_parameter(rclcpp::Node& node, std::istringstream& words) {
    std::string name, value;
    words >> name >> std::ws;
    std::getline(words, value);
    const auto started = std::chrono::steady_clock::now();
    const auto result = node.set_parameters_atomically({rclcpp::Parameter(name, value)});
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - started;
    print("{\"topic\": \"set\", \"successful\": " + std::string(result.successful ? "true" : "false") +
          ", \"reason\": " + quoted(result.reason) + ", \"value\": " + quoted(node.get_parameter(name).as_string()) +
          ", \"ms\": " + std::to_string(spent.count()) + "}");
}

void save_overlay(const std::string& path) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::ofstream file(path, std::ios::binary);
    file << "P6 " << overlay->width << " " << overlay->height << " 255\n";
    file.write(reinterpret_cast<const char*>(overlay->data.data()), static_cast<std::streamsize>(overlay->data.size()));
}

int run(const rclcpp::NodeOptions& options) {
    const std::shared_ptr<rclcpp::Node> node = make_registered_node(options);
    rclcpp::Node other("other");
    const auto camera = other.create_publisher<Image>("image", rclcpp::SensorDataQoS());
    const auto labels = other.create_subscription<Image>("labels", rclcpp::QoS(10), [](Image::ConstSharedPtr image) {
        print_image("labels", *image);
        ++labels_count;
    });
    const auto seen = other.create_subscription<Image>("overlay", rclcpp::SensorDataQoS(), [](Image::ConstSharedPtr image) {
        print_image("overlay", *image);
        const std::lock_guard<std::mutex> lock(mutex);
        overlay = image;
    });
    std::vector<rclcpp::Subscription<LabelInfo>::SharedPtr> infos;
    const auto listen = [&](const char* topic) {
        infos.push_back(
            other.create_subscription<LabelInfo>("label_info", rclcpp::QoS(1).transient_local(),
                                                 [topic](LabelInfo::ConstSharedPtr info) { print_names(topic, *info); }));
    };
    listen("label_info");
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string command, path;
        int count = 0;
        words >> command;
        if (command == "image") {
            const auto started = std::chrono::steady_clock::now();
            camera->publish(std::make_unique<Image>(make_image(words)));
            const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - started;
            print("{\"topic\": \"sent\", \"ms\": " + std::to_string(spent.count()) + "}");
        }
        if (command == "set") set_parameter(*node, words);
        if (command == "late") listen("late");
        if (command == "save" && words >> path) save_overlay(path);
        if (command == "wait" && words >> count)
            for (int turn = 0; turn < 2000 && labels_count < count; ++turn)
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
        if (command == "sleep" && words >> count) std::this_thread::sleep_for(std::chrono::milliseconds(count));
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<rclcpp::Parameter> overrides;
    for (int index = 1; index < argc; ++index) {
        const std::string argument = argv[index];
        const std::size_t sign = argument.find('=');
        const std::string name = argument.substr(0, sign), value = argument.substr(sign + 1);
        if (name == "keyframe_every")
            overrides.emplace_back(name, std::int64_t{std::atoll(value.c_str())});
        else
            overrides.emplace_back(name, value);
    }
    try {
        return run(rclcpp::NodeOptions().parameter_overrides(overrides));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "the node did not start: %s\n", error.what());
        return 1;
    }
}
