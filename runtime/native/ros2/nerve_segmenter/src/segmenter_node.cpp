// A ROS 2 node: images in, labels, coloured overlays and the names of the labels out.
//
// One thread of its own segments, so that the executor never waits for a frame that is being segmented, except in the
// callback that changes the classes. Between the two lies one image: the newest wins, the others are counted as dropped.
#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nerve/nerve.hpp>
#include <nerve/overlay.hpp>
#include <opencv2/imgproc.hpp>

#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rcl_interfaces/msg/set_parameters_result.hpp>
#include <rclcpp/rclcpp.hpp>
#include <rclcpp_components/register_node_macro.hpp>
#include <sensor_msgs/image_encodings.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <vision_msgs/msg/label_info.hpp>
#include <vision_msgs/msg/vision_class.hpp>

namespace nerve_ros {

namespace encodings = sensor_msgs::image_encodings;
using sensor_msgs::msg::Image;
using vision_msgs::msg::LabelInfo;

constexpr int LOG_EVERY_MS = 10'000;  // drops and errors come with every frame

const std::map<std::string, nerve_provider> PROVIDERS = {
    {"cpu", NERVE_CPU}, {"cuda", NERVE_CUDA}, {"tensorrt", NERVE_TENSORRT}, {"tensorrt_native", NERVE_TENSORRT_NATIVE}};
const std::map<std::string, nerve_between> BETWEENS = {
    {"follow", NERVE_FOLLOW}, {"warm", NERVE_WARM}, {"exact", NERVE_EXACT}, {"hold", NERVE_HOLD}};

template <typename Value>
Value chosen(const std::string& parameter, const std::string& text, const std::map<std::string, Value>& choices) {
    const auto choice = choices.find(text);
    if (choice != choices.end()) return choice->second;
    std::string names;
    for (const auto& entry : choices) names += (names.empty() ? "" : ", ") + entry.first;
    throw nerve::Error(NERVE_USAGE, parameter + " is '" + text + "', expected one of " + names);
}

// The pixels of a message, not copied where they are colours already. Raises nerve::Error.
cv::Mat picture_of(const Image& image) {
    const bool is_grey = image.encoding == encodings::MONO8;
    if (!is_grey && image.encoding != encodings::RGB8 && image.encoding != encodings::BGR8)
        throw nerve::Error(
            NERVE_USAGE, "the image has the encoding '" + image.encoding + "', expected rgb8, bgr8 or mono8; convert it before");
    const std::size_t row_bytes = std::size_t{image.width} * (is_grey ? 1 : 3);
    if (image.height == 0 || image.width == 0 || image.step < row_bytes || image.height > 32767 || image.width > 32767 ||
        image.data.size() < std::size_t{image.step} * (image.height - 1) + row_bytes)
        throw nerve::Error(NERVE_USAGE, "the image of " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                                            " pixels has " + std::to_string(image.data.size()) + " bytes in rows of " +
                                            std::to_string(image.step) + ", expected all of its pixels");
    // cv::Mat has no read-only pixels; nothing below writes to them.
    const cv::Mat pixels(static_cast<int>(image.height), static_cast<int>(image.width), is_grey ? CV_8UC1 : CV_8UC3,
                         const_cast<std::uint8_t*>(image.data.data()), image.step);
    if (!is_grey) return pixels;
    cv::Mat colours;
    cv::cvtColor(pixels, colours, cv::COLOR_GRAY2BGR);
    return colours;
}

std::unique_ptr<Image> message_of(const cv::Mat& picture, const Image& source, const std::string& encoding) {
    auto message = std::make_unique<Image>();
    message->header = source.header;
    message->height = static_cast<std::uint32_t>(picture.rows);
    message->width = static_cast<std::uint32_t>(picture.cols);
    message->encoding = encoding;
    const std::uint16_t one = 1;
    message->is_bigendian = *reinterpret_cast<const std::uint8_t*>(&one) == 0;
    message->step = static_cast<std::uint32_t>(picture.step[0]);
    message->data.assign(picture.data, picture.data + picture.total() * picture.elemSize());
    return message;
}

class SegmenterNode : public rclcpp::Node {
   public:
    // Raises nerve::Error where the bundle, the classes or a parameter make no sense: a node that cannot work must not start.
    explicit SegmenterNode(const rclcpp::NodeOptions& options) : rclcpp::Node("segmenter", options) {
        classes_ = declare_parameter<std::string>("classes", "");
        background_ = declare_parameter<std::string>("background", "");
        const std::string vocabulary = declare_fixed<std::string>("vocabulary", "");
        segmenter_.emplace(open());
        if (vocabulary.empty())
            segmenter_->set_classes(classes_, background_);
        else
            segmenter_->set_vocabulary(vocabulary);
        has_background_ = segmenter_->class_names().front() == "background";
        RCLCPP_INFO(get_logger(), "%s", segmenter_->description().c_str());

        // Publishers reliable, subscription best effort, as REP 2003 has it: so both kinds of others can connect.
        labels_ = create_publisher<Image>("labels", rclcpp::SystemDefaultsQoS());
        overlay_ = create_publisher<Image>("overlay", rclcpp::SystemDefaultsQoS());
        // Names change rarely; who subscribes later gets the latest at once.
        label_info_ = create_publisher<LabelInfo>("label_info", rclcpp::QoS(1).transient_local());
        publish_label_info();
        on_set_parameters_ = add_on_set_parameters_callback(
            [this](const std::vector<rclcpp::Parameter>& parameters) { return change_classes(parameters); });
        image_ = create_subscription<Image>("image", rclcpp::SensorDataQoS().keep_last(1),
                                            [this](Image::ConstSharedPtr image) { take(std::move(image)); });
        worker_ = std::thread([this] { work(); });
    }

    ~SegmenterNode() override {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            is_stopped_ = true;
        }
        changed_.notify_all();
        segmenter_->stop();  // a frame under way ends with an error
        worker_.join();
    }

   private:
    // A parameter that is read at the start only.
    template <typename Value>
    Value declare_fixed(const std::string& name, const Value& standard) {
        rcl_interfaces::msg::ParameterDescriptor descriptor;
        descriptor.read_only = true;
        return declare_parameter<Value>(name, standard, descriptor);
    }

    nerve::Segmenter open() {
        const std::string bundle = declare_fixed<std::string>("bundle", "");
        const std::string onnxruntime = declare_fixed<std::string>("onnxruntime", "");
        if (bundle.empty()) throw nerve::Error(NERVE_USAGE, "parameter bundle is empty, expected a bundle's folder");
        nerve::Params params = nerve::Params::video();
        params.onnxruntime = onnxruntime.empty() ? nullptr : onnxruntime.c_str();
        params.provider = chosen("provider", declare_fixed<std::string>("provider", "cpu"), PROVIDERS);
        params.between = chosen("between", declare_fixed<std::string>("between", "follow"), BETWEENS);
        params.keyframe_every =
            static_cast<std::int32_t>(std::clamp<std::int64_t>(declare_fixed<std::int64_t>("keyframe_every", 10), 0, 1'000'000));
        params.warn = [logger = get_logger()](const std::string& message) { RCLCPP_WARN(logger, "%s", message.c_str()); };
        return nerve::Segmenter(bundle, params);
    }

    // In the executor: leave the image for the worker.
    void take(Image::ConstSharedPtr image) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ++received_;
            if (newest_) ++dropped_;
            newest_ = std::move(image);
        }
        changed_.notify_all();
    }

    // In the executor: waits until the frame under way is done, and for the words to be embedded. A list that the library
    // refuses is refused with its text, and the old classes stay. It is set here and not in a callback after the fact: only
    // the library knows whether a list is good, and no other callback of this node can refuse it afterwards.
    rcl_interfaces::msg::SetParametersResult change_classes(const std::vector<rclcpp::Parameter>& parameters) {
        rcl_interfaces::msg::SetParametersResult result;
        result.successful = true;
        std::string classes = classes_, background = background_;
        for (const rclcpp::Parameter& parameter : parameters) {
            if (parameter.get_name() == "classes") classes = parameter.as_string();
            if (parameter.get_name() == "background") background = parameter.as_string();
        }
        if (classes == classes_ && background == background_) return result;
        const Turn turn(*this);
        try {
            segmenter_->set_classes(classes, background);
            has_background_ = !background.empty();
            classes_ = classes;
            background_ = background;
            publish_label_info();
        } catch (const std::exception& error) {
            result.successful = false;
            result.reason = error.what();
        }
        return result;
    }

    void publish_label_info() {
        LabelInfo info;
        info.header.stamp = now();
        const std::vector<std::string> names = segmenter_->class_names();
        for (std::size_t label = 0; label < names.size(); ++label) {
            vision_msgs::msg::VisionClass entry;
            entry.class_id = static_cast<std::uint16_t>(label);
            entry.class_name = names[label];
            info.class_map.push_back(entry);
        }
        label_info_->publish(info);
    }

    // In the worker: until the node is stopped.
    void work() {
        while (const Image::ConstSharedPtr image = wait_for_image()) {
            try {
                segment(*image);
            } catch (const std::exception& error) {
                RCLCPP_ERROR_THROTTLE(get_logger(), *get_clock(), LOG_EVERY_MS, "%s", error.what());
            }
        }
    }

    // None once the node is stopped.
    Image::ConstSharedPtr wait_for_image() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return newest_ || is_stopped_; });
        if (is_stopped_) return nullptr;
        if (dropped_ > dropped_logged_) {
            RCLCPP_INFO_THROTTLE(get_logger(), *get_clock(), LOG_EVERY_MS, "dropped %zu of %zu images, as newer ones had come",
                                 dropped_, received_);
            dropped_logged_ = dropped_;
        }
        return std::exchange(newest_, nullptr);
    }

    void segment(const Image& image) {
        const cv::Mat picture = picture_of(image);
        const bool is_rgb = image.encoding == encodings::RGB8;
        const double time_s = image.header.stamp.sec + 1e-9 * image.header.stamp.nanosec;
        nerve::MatResult result;
        bool has_background = false;
        {
            const Turn turn(*this);
            result = segmenter_->segment(picture, time_s, is_rgb ? NERVE_RGB : NERVE_BGR);
            has_background = has_background_;
        }
        if (!result.valid)
            RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), LOG_EVERY_MS, "the scores of an image were not finite");
        const bool is_narrow = result.labels.depth() == CV_8U;
        labels_->publish(message_of(result.labels, image, is_narrow ? encodings::MONO8 : encodings::MONO16));
        if (overlay_->get_subscription_count() == 0) return;
        const cv::Mat drawn = nerve::overlay(picture, result.labels, has_background ? 1 : 0);
        overlay_->publish(message_of(drawn, image, is_rgb ? encodings::RGB8 : encodings::BGR8));
    }

    // The right to use the segmenter. First come, first served: a mutex would let the worker, which asks again at once, pass
    // the executor by for as long as images come faster than they are segmented.
    class Turn {
       public:
        explicit Turn(SegmenterNode& node) : node_(node) {
            std::unique_lock<std::mutex> lock(node_.mutex_);
            const std::size_t number = node_.turns_asked_++;
            node_.changed_.wait(lock, [&] { return node_.turns_over_ == number; });
        }
        ~Turn() {
            {
                const std::lock_guard<std::mutex> lock(node_.mutex_);
                ++node_.turns_over_;
            }
            node_.changed_.notify_all();
        }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

       private:
        SegmenterNode& node_;
    };

    std::optional<nerve::Segmenter> segmenter_;  // this and the next three: of who has the turn
    std::string classes_, background_;
    bool has_background_ = false;

    std::mutex mutex_;  // of the following
    std::condition_variable changed_;
    Image::ConstSharedPtr newest_;
    std::size_t received_ = 0, dropped_ = 0, dropped_logged_ = 0, turns_asked_ = 0, turns_over_ = 0;
    bool is_stopped_ = false;

    rclcpp::Publisher<Image>::SharedPtr labels_, overlay_;
    rclcpp::Publisher<LabelInfo>::SharedPtr label_info_;
    rclcpp::node_interfaces::OnSetParametersCallbackHandle::SharedPtr on_set_parameters_;
    rclcpp::Subscription<Image>::SharedPtr image_;
    std::thread worker_;
};

}  // namespace nerve_ros

RCLCPP_COMPONENTS_REGISTER_NODE(nerve_ros::SegmenterNode)
