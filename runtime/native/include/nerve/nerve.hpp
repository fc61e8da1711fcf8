/* NERVE in C++: nerve.h with owners and exceptions. Header only, C++14 and later; link with libnerve.
 *
 *     nerve::Segmenter segmenter("bundles/tiny");
 *     segmenter.set_classes("ladybug; grass");
 *     nerve::Result result = segmenter.segment(pixels, height, width);
 *     int label = result.label(row, column);
 *     if (label >= 0) std::puts(segmenter.class_names()[label].c_str());
 *
 * Where OpenCV's headers are, `segment` takes and gives cv::Mat too, and measures motion by itself if the params use it;
 * who calls that links with opencv_core and opencv_video. NERVE_WITHOUT_OPENCV leaves it out.
 * Threads: as in nerve.h. A call that throws has changed nothing, except that the frame after one that failed is computed
 * from nothing.
 */
#ifndef NERVE_NERVE_HPP
#define NERVE_NERVE_HPP

#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "nerve/nerve.h"

#if !defined(NERVE_WITHOUT_OPENCV) && defined(__has_include)
#if __has_include(<opencv2/core.hpp>) && __has_include(<opencv2/video/tracking.hpp>)
#define NERVE_WITH_OPENCV
#include <opencv2/core.hpp>
#include <opencv2/video/tracking.hpp>
#endif
#endif

namespace nerve {
// The library has classes of the same names inside; this keeps them apart where both are linked together.
inline namespace api {

// A call that failed: code() says of what kind, what() in one line why.
class Error : public std::runtime_error {
   public:
    Error(nerve_code code, const std::string& message) : std::runtime_error(message), code_(code) {}

    nerve_code code() const noexcept { return code_; }

   private:
    nerve_code code_;
};

// Options of a Segmenter: the fields of nerve_params, with their defaults, and what to do with a warning.
struct Params : nerve_params {
    // Called with each warning, in the thread that calls; what it throws is dropped. Replaces `on_warning`.
    std::function<void(const std::string&)> warn;

    Params() : nerve_params{} { nerve_params_init(this, sizeof(nerve_params)); }

    // For video: keyframes, and following the picture's motion between them.
    static Params video() {
        Params params;
        nerve_params_video(&params);
        return params;
    }

    // Whether the motion of the picture has to be measured, as Temporal.watches of the Python runtime says it.
    bool uses_motion() const noexcept {
        return (keyframe_every > 1 && between == NERVE_FOLLOW) || smoothing > 0 || change > 0 || cut > 0;
    }
};

// One picture, not owned: nerve_frame, rows without gaps, time and motion not known unless they are set afterwards.
struct Frame : nerve_frame {
    // `rgb`: uint8 (height, width, 3).
    Frame(const std::uint8_t* rgb, int frame_height, int frame_width, nerve_pixel_format pixel_format = NERVE_RGB)
        : nerve_frame{sizeof(nerve_frame), rgb, frame_height, frame_width, std::ptrdiff_t{3} * frame_width,
                      pixel_format, NAN, nullptr} {}
};

// How a frame was computed; see nerve_result.
struct Outcome {
    bool valid = false, keyframe = false;
    int affinity_age = 0;
    double total_ms = 0;
};

// Labels of one frame, in the frame's own size.
struct Result : Outcome {
    int height = 0, width = 0;
    std::vector<std::uint8_t> labels8;    // (height, width) up to 254 classes, else empty; 255 means no label
    std::vector<std::uint16_t> labels16;  // (height, width) beyond 254 classes, else empty; 65535 means no label
    std::vector<std::uint8_t> confidence; // (height, width): probability of the label, 0 to 255 for 0 to 1

    // The label of a pixel, of either width; -1 for no label. Raises std::out_of_range.
    int label(int row, int column) const {
        if (row < 0 || row >= height || column < 0 || column >= width)
            throw std::out_of_range("the frame has no such pixel");
        const std::size_t place = static_cast<std::size_t>(std::int64_t{row} * width + column);
        if (labels16.empty()) return labels8[place] == 0xFF ? -1 : labels8[place];
        return labels16[place] == 0xFFFF ? -1 : labels16[place];
    }
};

#ifdef NERVE_WITH_OPENCV
// Labels of one frame as pictures.
struct MatResult : Outcome {
    cv::Mat labels;     // CV_8U up to 254 classes, 255 means no label; CV_16U beyond, 65535 means no label
    cv::Mat confidence; // CV_8U
};

// Where each pixel was in the picture before, by OpenCV's DIS, as nerve_frame.flow wants it.
class OpticalFlow {
   public:
    // `grey`: CV_8U from nerve_grey. Returns CV_32FC2, empty for the first picture. Raises cv::Exception.
    cv::Mat next(const cv::Mat& grey) {
        const cv::Mat previous = std::exchange(previous_, cv::Mat());
        cv::Mat flow; // new each time: DIS takes what it finds there for a first guess
        if (!previous.empty()) dis_->calc(grey, previous, flow);
        previous_ = grey;
        return flow;
    }

   private:
    cv::Ptr<cv::DISOpticalFlow> dis_ = cv::DISOpticalFlow::create(cv::DISOpticalFlow::PRESET_FAST);
    cv::Mat previous_;
};
#endif

// A bundle's opened graphs, a class list, and what one video needs from frame to frame. Movable; closes itself.
class Segmenter {
   public:
    // Verify the bundle, a folder, and open its graphs. Raises Error.
    explicit Segmenter(const std::string& bundle, const Params& params = Params())
        : uses_motion_(params.uses_motion()) {
        nerve_params given = params;
        Close close;
        if (params.warn) {
            close.warn = std::make_shared<Warn>(params.warn);
            given.on_warning = &Segmenter::pass_warning;
            given.user = close.warn.get();
        }
        nerve_segmenter* opened = nullptr;
        check(nerve_open(text(bundle, "the bundle's path"), &given, &opened));
        handle_ = Handle(opened, std::move(close));
    }

    // Another segmenter for another video, with the same graphs and the classes of now. Raises Error.
    Segmenter new_video() {
        nerve_segmenter* opened = nullptr;
        check(nerve_new_video(handle(), &opened));
        return Segmenter(Handle(opened, handle_.get_deleter()), uses_motion_);
    }

    // Use these classes from the next frame on: "zebra; soccer ball, football; grass", synonyms after commas; `background`:
    // words for everything else, which become class 0. Raises Error; the old classes stay then.
    void set_classes(const std::string& classes, const std::string& background = std::string()) {
        const char* words = background.empty() ? nullptr : text(background, "background");
        check(nerve_set_classes(handle(), text(classes, "the class list"), words));
    }

    // The same from a vocabulary file, written by nerve-vocab for this bundle. Raises Error; the old classes stay then.
    void set_vocabulary(const std::string& path) {
        check(nerve_set_vocabulary(handle(), text(path, "the vocabulary's path")));
    }

    // Label every pixel of the next frame, uint8 (height, width, 3). Raises Error, std::bad_alloc.
    Result segment(const std::uint8_t* pixels, int height, int width, nerve_pixel_format format = NERVE_RGB) {
        return segment(Frame(pixels, height, width, format));
    }

    // The same of any nerve_frame, with rows apart, a time or measured motion.
    Result segment(const nerve_frame& frame) {
        const std::size_t label_bytes = nerve_label_bytes(handle());
        const bool empty = frame.height <= 0 || frame.width <= 0; // then the library says so
        const std::size_t area = empty ? 0 : static_cast<std::size_t>(frame.height) * static_cast<std::size_t>(frame.width);
        Result result;
        result.height = frame.height;
        result.width = frame.width;
        result.confidence.resize(area);
        result.labels8.resize(label_bytes == 1 ? area : 0);
        result.labels16.resize(label_bytes == 1 ? 0 : area);
        void* labels = label_bytes == 1 ? static_cast<void*>(result.labels8.data()) : result.labels16.data();
        flow_.reset(); // what it has seen is no longer the frame before
        segment_into(frame, labels, area * label_bytes, result.confidence.data(), result);
        return result;
    }

#ifdef NERVE_WITH_OPENCV
    // Label every pixel of the next picture, CV_8UC3; follows its motion if the params use that. `time_s`: presentation
    // time. Raises Error, cv::Exception.
    MatResult segment(const cv::Mat& picture, double time_s = NAN, nerve_pixel_format format = NERVE_BGR) {
        if (picture.empty() || picture.dims != 2 || picture.type() != CV_8UC3)
            throw Error(NERVE_USAGE, "the picture is " + std::to_string(picture.cols) + " x " +
                                         std::to_string(picture.rows) + " of " + cv::typeToString(picture.type()) +
                                         ", expected pixels of CV_8UC3");
        Frame frame(picture.data, picture.rows, picture.cols, format);
        frame.stride = static_cast<std::ptrdiff_t>(picture.step[0]);
        frame.time_s = time_s;
        MatResult result;
        result.labels.create(picture.size(), nerve_label_bytes(handle()) == 1 ? CV_8U : CV_16U);
        result.confidence.create(picture.size(), CV_8U);
        const cv::Mat flow = measured_flow(frame); // until the call is over
        frame.flow = flow.empty() ? nullptr : flow.ptr<float>();
        const std::size_t labels_bytes = result.labels.total() * result.labels.elemSize();
        segment_into(frame, result.labels.data, labels_bytes, result.confidence.data, result);
        return result;
    }
#endif

    // The name of each label. Raises Error, std::bad_alloc.
    std::vector<std::string> class_names() const {
        std::vector<std::string> names(static_cast<std::size_t>(nerve_class_count(handle())));
        for (std::size_t label = 0; label < names.size(); ++label)
            names[label] = nerve_class_name(handle(), static_cast<std::int32_t>(label));
        return names;
    }

    std::string description() const { return nerve_description(handle()); }

    nerve_info info() const {
        nerve_info sizes{sizeof(nerve_info), 0, 0, 0, 0, 0, 0};
        check(nerve_get_info(handle(), &sizes));
        return sizes;
    }

    // Forget the frames before, as after a cut.
    void reset() {
        nerve_reset(handle());
        flow_.reset();
    }

    // From any thread: end the run under way with an error soon. Nothing but closing works afterwards.
    void stop() { nerve_stop(handle()); }

    // For calls of nerve.h; stays this segmenter's. Raises Error if it was moved from.
    nerve_segmenter* handle() const {
        if (!handle_) throw Error(NERVE_USAGE, "this segmenter was moved from, expected one that is open");
        return handle_.get();
    }

   private:
    using Warn = std::function<void(const std::string&)>;
    struct Close {
        std::shared_ptr<Warn> warn; // the library calls it until it is closed

        void operator()(nerve_segmenter* segmenter) const noexcept { nerve_close(segmenter); }
    };
    using Handle = std::unique_ptr<nerve_segmenter, Close>;

    Segmenter(Handle handle, bool uses_motion) : handle_(std::move(handle)), uses_motion_(uses_motion) {}

    static void check(nerve_code code) {
        if (code != NERVE_OK) throw Error(code, nerve_last_error());
    }

    // A zero byte would end the text for the library, in silence.
    static const char* text(const std::string& given, const char* what) {
        if (given.find('\0') != std::string::npos)
            throw Error(NERVE_USAGE, std::string(what) + " holds the character U+0000, expected plain text; remove it");
        return given.c_str();
    }

    static void pass_warning(void* user, const char* message) noexcept {
        try {
            (*static_cast<Warn*>(user))(message);
        } catch (...) { // may not pass through the library, which is C to its callers
        }
    }

    void segment_into(const nerve_frame& frame, void* labels, std::size_t labels_bytes, std::uint8_t* confidence,
                      Outcome& outcome) {
        nerve_result result{sizeof(nerve_result), labels, labels_bytes, confidence, 0, 0, 0, 0};
        const nerve_code code = nerve_segment(handle(), &frame, &result);
        if (code != NERVE_OK || result.valid == 0) flow_.reset(); // the library too has forgotten the frame before
        check(code);
        outcome.valid = result.valid != 0;
        outcome.keyframe = result.keyframe != 0;
        outcome.affinity_age = result.affinity_age;
        outcome.total_ms = result.total_ms;
    }

#ifdef NERVE_WITH_OPENCV
    cv::Mat measured_flow(const nerve_frame& frame) {
        if (!uses_motion_) return cv::Mat();
        const nerve_info sizes = info();
        cv::Mat grey(sizes.motion_height, sizes.motion_width, CV_8U);
        check(nerve_grey(handle(), &frame, grey.data));
        if (!flow_) flow_ = std::make_shared<OpticalFlow>();
        try {
            return static_cast<OpticalFlow*>(flow_.get())->next(grey);
        } catch (...) {
            reset(); // the library knows of no frame that its flow would lead to
            throw;
        }
    }
#endif

    Handle handle_;
    std::shared_ptr<void> flow_; // OpticalFlow; without its type the class is the same with and without OpenCV
    bool uses_motion_;
};

}  // namespace api
}  // namespace nerve
#endif
