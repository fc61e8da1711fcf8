// Stands in for rclcpp, so that the node compiles and runs where there is no ROS 2: what the node uses of it, with the
// signatures that docs.ros.org gives, over a table of topics in one process. A message is delivered in the thread that
// publishes it, where quality of service lets the two ends connect.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rcl_interfaces/msg/set_parameters_result.hpp>
#include <stdexcept>
#include <std_msgs/msg/header.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rclcpp {

class QoS {
   public:
    QoS(std::size_t depth) : depth_(depth) {}  // NOLINT: converts, as in rclcpp

    QoS& keep_last(std::size_t depth) { return depth_ = depth, *this; }
    QoS& best_effort() { return is_reliable_ = false, *this; }
    QoS& reliable() { return is_reliable_ = true, *this; }
    QoS& transient_local() { return is_latched_ = true, *this; }

    bool serves(const QoS& subscription) const {
        return is_reliable_ >= subscription.is_reliable_ && is_latched_ >= subscription.is_latched_;
    }
    bool is_latched() const { return is_latched_; }

   private:
    std::size_t depth_;
    bool is_reliable_ = true, is_latched_ = false;
};

struct SensorDataQoS : QoS {
    SensorDataQoS() : QoS(5) { best_effort(); }
};
struct SystemDefaultsQoS : QoS {
    SystemDefaultsQoS() : QoS(10) {}
};

template <typename MessageT>
class Subscription {
   public:
    using SharedPtr = std::shared_ptr<Subscription>;
    using Callback = std::function<void(std::shared_ptr<const MessageT>)>;

    Subscription(const QoS& qos, Callback callback) : qos(qos), callback(std::move(callback)) {}

    const QoS qos;
    const Callback callback;
};

// Who listens to a topic, and its last message.
template <typename MessageT>
struct Topic {
    std::mutex mutex;
    std::vector<std::weak_ptr<Subscription<MessageT>>> subscriptions;
    std::shared_ptr<const MessageT> last;

    static Topic& named(const std::string& name) {
        static std::mutex mutex;
        static std::map<std::string, Topic> topics;
        const std::lock_guard<std::mutex> lock(mutex);
        return topics[name];
    }
    std::vector<std::shared_ptr<Subscription<MessageT>>> connected(const QoS& qos) {
        const std::lock_guard<std::mutex> lock(mutex);
        std::vector<std::shared_ptr<Subscription<MessageT>>> found;
        for (const auto& weak : subscriptions)
            if (auto subscription = weak.lock(); subscription && qos.serves(subscription->qos)) found.push_back(subscription);
        return found;
    }
};

template <typename MessageT>
class Publisher {
   public:
    using SharedPtr = std::shared_ptr<Publisher>;

    Publisher(const std::string& topic, const QoS& qos) : topic_(Topic<MessageT>::named(topic)), qos_(qos) {}

    void publish(std::unique_ptr<MessageT> message) { deliver(std::move(message)); }
    void publish(const MessageT& message) { deliver(std::make_shared<const MessageT>(message)); }
    std::size_t get_subscription_count() const { return topic_.connected(qos_).size(); }

   private:
    void deliver(std::shared_ptr<const MessageT> message) {
        if (qos_.is_latched()) {
            const std::lock_guard<std::mutex> lock(topic_.mutex);
            topic_.last = message;
        }
        for (const auto& subscription : topic_.connected(qos_)) subscription->callback(message);
    }

    Topic<MessageT>& topic_;
    QoS qos_;
};

class Parameter {
   public:
    using Value = std::variant<std::string, std::int64_t>;

    Parameter(const std::string& name, const Value& value) : name_(name), value_(value) {}

    const std::string& get_name() const { return name_; }
    const std::string& as_string() const { return std::get<std::string>(value_); }
    const Value& value() const { return value_; }

   private:
    std::string name_;
    Value value_;
};

class NodeOptions {
   public:
    NodeOptions& parameter_overrides(const std::vector<Parameter>& overrides) { return overrides_ = overrides, *this; }
    const std::vector<Parameter>& parameter_overrides() const { return overrides_; }

   private:
    std::vector<Parameter> overrides_;
};

namespace node_interfaces {
struct OnSetParametersCallbackHandle {
    using SharedPtr = std::shared_ptr<OnSetParametersCallbackHandle>;
    using OnSetParametersCallbackType =
        std::function<rcl_interfaces::msg::SetParametersResult(const std::vector<Parameter>&)>;

    OnSetParametersCallbackType callback;
};
}  // namespace node_interfaces

struct Logger {
    const char* get_name() const { return "segmenter"; }
};

class Time {
   public:
    operator builtin_interfaces::msg::Time() const { return {1, 0}; }  // NOLINT: converts, as in rclcpp
};

struct Clock {
    using SharedPtr = std::shared_ptr<Clock>;
};

class Node {
   public:
    explicit Node(const std::string&, const NodeOptions& options = NodeOptions()) : options_(options) {}
    virtual ~Node() = default;
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    Logger get_logger() const { return {}; }
    Clock::SharedPtr get_clock() { return clock_; }
    Time now() const { return {}; }

    template <typename MessageT>
    std::shared_ptr<Publisher<MessageT>> create_publisher(const std::string& topic, const QoS& qos) {
        return std::make_shared<Publisher<MessageT>>(topic, qos);
    }

    template <typename MessageT, typename CallbackT>
    std::shared_ptr<Subscription<MessageT>> create_subscription(const std::string& topic, const QoS& qos,
                                                                CallbackT&& callback) {
        auto subscription = std::make_shared<Subscription<MessageT>>(qos, std::forward<CallbackT>(callback));
        auto& table = Topic<MessageT>::named(topic);
        std::shared_ptr<const MessageT> last;
        {
            const std::lock_guard<std::mutex> lock(table.mutex);
            table.subscriptions.push_back(subscription);
            last = table.last;
        }
        if (last) subscription->callback(last);  // latched messages alone are kept
        return subscription;
    }

    template <typename ParameterT>
    ParameterT declare_parameter(const std::string& name, const ParameterT& default_value,
                                 const rcl_interfaces::msg::ParameterDescriptor& descriptor = {}, bool = false) {
        Parameter::Value value = default_value;
        for (const Parameter& given : options_.parameter_overrides())
            if (given.get_name() == name) value = given.value();
        if (!std::holds_alternative<ParameterT>(value)) throw std::runtime_error("parameter " + name + " has the wrong type");
        parameters_[name] = value;
        is_read_only_[name] = descriptor.read_only;
        return std::get<ParameterT>(value);
    }

    node_interfaces::OnSetParametersCallbackHandle::SharedPtr add_on_set_parameters_callback(
        node_interfaces::OnSetParametersCallbackHandle::OnSetParametersCallbackType callback) {
        auto handle = std::make_shared<node_interfaces::OnSetParametersCallbackHandle>();
        handle->callback = std::move(callback);
        on_set_ = handle;
        return handle;
    }

    rcl_interfaces::msg::SetParametersResult set_parameters_atomically(const std::vector<Parameter>& parameters) {
        for (const Parameter& parameter : parameters)
            if (is_read_only_.at(parameter.get_name()))
                return {false, "parameter '" + parameter.get_name() + "' cannot be set because it is read-only"};
        rcl_interfaces::msg::SetParametersResult result{true, ""};
        if (const auto handle = on_set_.lock()) result = handle->callback(parameters);
        if (result.successful)
            for (const Parameter& parameter : parameters) parameters_.at(parameter.get_name()) = parameter.value();
        return result;
    }

    Parameter get_parameter(const std::string& name) const { return Parameter(name, parameters_.at(name)); }

   private:
    NodeOptions options_;
    std::map<std::string, Parameter::Value> parameters_;
    std::map<std::string, bool> is_read_only_;
    std::weak_ptr<node_interfaces::OnSetParametersCallbackHandle> on_set_;
    Clock::SharedPtr clock_ = std::make_shared<Clock>();
};

}  // namespace rclcpp

#define STANDIN_LOG(level, logger, ...)                                   \
    do {                                                                  \
        std::fprintf(stderr, "[" level "] [%s]: ", (logger).get_name());  \
        std::fprintf(stderr, __VA_ARGS__);                                \
        std::fprintf(stderr, "\n");                                       \
    } while (0)
#define STANDIN_LOG_THROTTLE(level, logger, clock, duration_ms, ...)                              \
    do {                                                                                          \
        static_cast<void>(static_cast<rclcpp::Clock&>(clock));                                    \
        using Steady = std::chrono::steady_clock;                                                 \
        static Steady::time_point next;                                                           \
        if (Steady::now() >= next) {                                                              \
            next = Steady::now() + std::chrono::milliseconds(duration_ms);                        \
            STANDIN_LOG(level, logger, __VA_ARGS__);                                              \
        }                                                                                         \
    } while (0)
#define RCLCPP_INFO(logger, ...) STANDIN_LOG("INFO", logger, __VA_ARGS__)
#define RCLCPP_WARN(logger, ...) STANDIN_LOG("WARN", logger, __VA_ARGS__)
#define RCLCPP_INFO_THROTTLE(logger, clock, ms, ...) STANDIN_LOG_THROTTLE("INFO", logger, clock, ms, __VA_ARGS__)
#define RCLCPP_WARN_THROTTLE(logger, clock, ms, ...) STANDIN_LOG_THROTTLE("WARN", logger, clock, ms, __VA_ARGS__)
#define RCLCPP_ERROR_THROTTLE(logger, clock, ms, ...) STANDIN_LOG_THROTTLE("ERROR", logger, clock, ms, __VA_ARGS__)
