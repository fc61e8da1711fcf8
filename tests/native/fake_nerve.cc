// nerve.h without a network, for tests of what is built on it: it checks its arguments, labels pixels by a rule that a test
// can repeat, counts what is open, and fails on demand.
//
// Rule: the label of a pixel is its red value modulo the number of classes, its confidence is its green value. A frame whose
// first pixel is pure white has scores that are not finite.
// Environment: NERVE_FAKE_FAIL="nerve_segment=6:memory ran out", the function, its code, its text; NERVE_FAKE_MS: how long a
// frame takes; NERVE_FAKE_LOG: path of a file that gets a line for each frame.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "nerve/nerve.h"

namespace {

const int WORKING_SIDE = 128, MOTION_HEIGHT = 96, MOTION_WIDTH = 128;
thread_local std::string last_error;
std::atomic<int> open_handles{0};
std::string failure;  // as in NERVE_FAKE_FAIL, by fake_fail

struct Fault : std::runtime_error {
    Fault(nerve_code given, const std::string& message) : std::runtime_error(message), code(given) {}
    nerve_code code;
};

void require(bool is_met, const std::string& message) {
    if (!is_met) throw Fault(NERVE_USAGE, message);
}

// Runs the body of an API function, as the library does: no exception gets out.
template <typename Body>
nerve_code guarded(const char* function, Body body) {
    try {
        last_error.clear();
        const char* variable = std::getenv("NERVE_FAKE_FAIL");
        const std::string wanted = !failure.empty() ? failure : variable ? variable : "";
        const std::string name = std::string(function) + "=";
        if (wanted.compare(0, name.size(), name) == 0)
            throw Fault(static_cast<nerve_code>(wanted.at(name.size()) - '0'), wanted.substr(name.size() + 2));
        body();
        return NERVE_OK;
    } catch (const Fault& fault) {
        last_error = fault.what();
        return fault.code;
    } catch (const std::exception& error) {
        last_error = std::string("internal error: ") + error.what();
        return NERVE_INTERNAL;
    }
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    for (char character : text)
        if (character == separator)
            parts.emplace_back();
        else if (character != ' ' || !parts.back().empty())
            parts.back() += character;
    return parts;
}

}  // namespace

struct nerve_segmenter {
    nerve_params params;
    std::vector<std::string> names;
    long frames = 0;
    int age = 0;
    std::shared_ptr<std::atomic<bool>> stopped = std::make_shared<std::atomic<bool>>(false);
    std::atomic<bool> is_used{false};

    nerve_segmenter() { ++open_handles; }
    ~nerve_segmenter() { --open_handles; }
};

namespace {

// Notes two threads in one segmenter.
class Use {
   public:
    explicit Use(nerve_segmenter* segmenter) : segmenter_(segmenter) {
        require(segmenter != nullptr, "segmenter is NULL, expected one that nerve_open gave");
        if (segmenter->is_used.exchange(true)) throw std::runtime_error("two threads use one segmenter");
    }
    ~Use() { segmenter_->is_used = false; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    nerve_segmenter* segmenter_;
};

std::size_t label_bytes(const nerve_segmenter* segmenter) { return segmenter->names.size() <= 254 ? 1 : 2; }

void check_frame(const nerve_frame* frame) {
    require(frame != nullptr && frame->struct_size == sizeof(nerve_frame), "frame: struct_size is wrong");
    require(frame->height > 0 && frame->width > 0,
            "a frame of " + std::to_string(frame->width) + " x " + std::to_string(frame->height) + " pixels, expected some");
    require(frame->pixels != nullptr, "frame: pixels are NULL");
    require(frame->stride >= 3 * static_cast<std::ptrdiff_t>(frame->width), "frame: stride is too small");
    require(frame->format == NERVE_RGB || frame->format == NERVE_BGR, "frame: format is unknown");
}

const std::uint8_t* pixel_at(const nerve_frame& frame, int row, int column) {
    return frame.pixels + row * frame.stride + 3 * static_cast<std::ptrdiff_t>(column);
}

double mean_flow(const nerve_frame& frame) {
    if (frame.flow == nullptr) return NAN;
    double sum = 0;
    for (int place = 0; place < MOTION_HEIGHT * MOTION_WIDTH; ++place) sum += frame.flow[2 * place];  // reads all, by x
    require(std::isfinite(sum), "frame: flow is not finite");
    return sum / (MOTION_HEIGHT * MOTION_WIDTH);
}

void wait_as_long_as_a_frame_takes(const nerve_segmenter& segmenter) {
    const char* variable = std::getenv("NERVE_FAKE_MS");
    for (int spent_ms = 0; variable != nullptr && spent_ms < std::atoi(variable); ++spent_ms) {
        if (*segmenter.stopped) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (*segmenter.stopped) throw Fault(NERVE_USAGE, "the segmenter was stopped; close it");
}

void log_frame(const nerve_frame& frame, const nerve_result& result) {
    const char* path = std::getenv("NERVE_FAKE_LOG");
    if (path == nullptr) return;
    std::ofstream file(path, std::ios::app);
    file << "{\"time_s\": " << (std::isnan(frame.time_s) ? -1 : frame.time_s)
         << ", \"flow\": " << (frame.flow == nullptr ? "null" : std::to_string(mean_flow(frame)))
         << ", \"format\": " << frame.format << ", \"keyframe\": " << result.keyframe << "}\n";
}

void label_frame(const nerve_segmenter& segmenter, const nerve_frame& frame, nerve_result* result) {
    const int red = frame.format == NERVE_RGB ? 0 : 2;
    const std::size_t count = segmenter.names.size();
    const std::uint8_t* first = frame.pixels;
    result->valid = first[0] != 255 || first[1] != 255 || first[2] != 255;
    for (int row = 0; row < frame.height; ++row)
        for (int column = 0; column < frame.width; ++column) {
            const std::uint8_t* pixel = pixel_at(frame, row, column);
            const std::size_t place =
                static_cast<std::size_t>(row) * static_cast<std::size_t>(frame.width) + static_cast<std::size_t>(column);
            const std::size_t label = result->valid ? pixel[red] % count : 65535;
            if (label_bytes(&segmenter) == 1)
                static_cast<std::uint8_t*>(result->labels)[place] = static_cast<std::uint8_t>(label);
            else
                static_cast<std::uint16_t*>(result->labels)[place] = static_cast<std::uint16_t>(label);
            if (result->confidence != nullptr) result->confidence[place] = result->valid ? pixel[1] : 0;
        }
}

}  // namespace

extern "C" {

// For tests only.
NERVE_API int fake_open_handles() { return open_handles; }
NERVE_API void fake_fail(const char* how) { failure = how; }

const char* nerve_version(void) { return "fake"; }
const char* nerve_last_error(void) { return last_error.c_str(); }

void nerve_params_init(nerve_params* params, size_t struct_size) {
    std::memset(static_cast<void*>(params), 0, struct_size);
    params->struct_size = struct_size;
    params->between = NERVE_WARM;
    params->keyframe_every = params->scores_every = 1;
    params->longest_s = INFINITY;
    params->tau = params->alpha = params->beta = params->head_temperature = params->threshold = NAN;
}

void nerve_params_video(nerve_params* params) {
    params->between = NERVE_FOLLOW;
    params->keyframe_every = 10;
    params->longest_s = 2.0;
    params->smoothing = 0.5;
    params->change = 0.35;
    params->cut = 0.45;
}

nerve_code nerve_open(const char* bundle, const nerve_params* params, nerve_segmenter** segmenter) {
    return guarded("nerve_open", [&] {
        require(bundle != nullptr && segmenter != nullptr, "bundle or segmenter is NULL");
        require(params != nullptr && params->struct_size == sizeof(nerve_params), "params: struct_size is wrong");
        require(params->keyframe_every >= 1,
                "keyframe-every is " + std::to_string(params->keyframe_every) + ", expected 1 or more frames");
        if (!std::ifstream(std::string(bundle) + "/manifest.json"))
            throw Fault(NERVE_BUNDLE, std::string(bundle) + " has no manifest.json; name a bundle's folder");
        std::unique_ptr<nerve_segmenter> opened(new nerve_segmenter);
        opened->params = *params;
        if (params->on_warning != nullptr) params->on_warning(params->user, "the bundle has random weights");
        *segmenter = opened.release();
    });
}

nerve_code nerve_new_video(nerve_segmenter* segmenter, nerve_segmenter** video) {
    return guarded("nerve_new_video", [&] {
        Use use(segmenter);
        std::unique_ptr<nerve_segmenter> opened(new nerve_segmenter);
        opened->params = segmenter->params;
        opened->names = segmenter->names;
        opened->stopped = segmenter->stopped;
        *video = opened.release();
    });
}

nerve_code nerve_set_classes(nerve_segmenter* segmenter, const char* classes, const char* background) {
    return guarded("nerve_set_classes", [&] {
        Use use(segmenter);
        require(classes != nullptr, "classes are NULL");
        require(background == nullptr || *background != '\0', "background words are empty, expected some or NULL");
        std::vector<std::string> names;
        if (background != nullptr) names.push_back("background");
        for (const std::string& entry : split(classes, ';')) {
            require(!entry.empty(), "classes: an empty word; expected a name, check the separators ';' and ','");
            names.push_back(split(entry, ',').front());
        }
        require(names.size() >= 2, "one class alone; name at least two classes, such as 'dog; grass'");
        if (segmenter->params.on_warning != nullptr) segmenter->params.on_warning(segmenter->params.user, "classes are new");
        segmenter->names = names;
    });
}

nerve_code nerve_set_vocabulary(nerve_segmenter* segmenter, const char* path) {
    return guarded("nerve_set_vocabulary", [&] {
        Use use(segmenter);
        require(path != nullptr, "path is NULL");
        std::ifstream file(path);
        require(file.good(), std::string("vocabulary ") + path + " cannot be read; write it anew with nerve-vocab");
        std::vector<std::string> names;
        for (std::string line; std::getline(file, line);) names.push_back(line);
        segmenter->names = names;
    });
}

int32_t nerve_class_count(const nerve_segmenter* segmenter) { return static_cast<int32_t>(segmenter->names.size()); }

const char* nerve_class_name(const nerve_segmenter* segmenter, int32_t label) {
    if (label < 0 || label >= nerve_class_count(segmenter)) return nullptr;
    return segmenter->names[static_cast<std::size_t>(label)].c_str();
}

size_t nerve_label_bytes(const nerve_segmenter* segmenter) { return label_bytes(segmenter); }

const char* nerve_description(const nerve_segmenter*) { return "fake on no provider"; }

nerve_code nerve_get_info(const nerve_segmenter* segmenter, nerve_info* info) {
    return guarded("nerve_get_info", [&] {
        require(segmenter != nullptr && info != nullptr && info->struct_size == sizeof(nerve_info), "info is wrong");
        *info = {sizeof(nerve_info), WORKING_SIDE, WORKING_SIDE, MOTION_HEIGHT, MOTION_WIDTH, 65534, 1};
    });
}

nerve_code nerve_grey(const nerve_segmenter* segmenter, const nerve_frame* frame, uint8_t* grey) {
    return guarded("nerve_grey", [&] {
        require(segmenter != nullptr && grey != nullptr, "segmenter or grey is NULL");
        check_frame(frame);
        for (int row = 0; row < MOTION_HEIGHT; ++row)
            for (int column = 0; column < MOTION_WIDTH; ++column) {
                const std::uint8_t* pixel =
                    pixel_at(*frame, row * frame->height / MOTION_HEIGHT, column * frame->width / MOTION_WIDTH);
                grey[row * MOTION_WIDTH + column] = static_cast<std::uint8_t>((pixel[0] + pixel[1] + pixel[2]) / 3);
            }
    });
}

nerve_code nerve_segment(nerve_segmenter* segmenter, const nerve_frame* frame, nerve_result* result) {
    return guarded("nerve_segment", [&] {
        Use use(segmenter);
        check_frame(frame);
        require(!segmenter->names.empty(), "no classes are set; call nerve_set_classes first");
        require(result != nullptr && result->struct_size == sizeof(nerve_result), "result: struct_size is wrong");
        const std::size_t needed =
            static_cast<std::size_t>(frame->height) * static_cast<std::size_t>(frame->width) * label_bytes(segmenter);
        require(result->labels != nullptr && result->labels_bytes >= needed,
                "labels have room for " + std::to_string(result->labels_bytes) + " bytes, expected " + std::to_string(needed));
        wait_as_long_as_a_frame_takes(*segmenter);
        label_frame(*segmenter, *frame, result);
        segmenter->age = static_cast<int>(segmenter->frames++ % segmenter->params.keyframe_every);
        result->keyframe = segmenter->age == 0;
        result->affinity_age = segmenter->age;
        result->total_ms = 1.5;
        mean_flow(*frame);
        log_frame(*frame, *result);
    });
}

void nerve_reset(nerve_segmenter* segmenter) { segmenter->frames = 0; }
void nerve_stop(nerve_segmenter* segmenter) { *segmenter->stopped = true; }
void nerve_close(nerve_segmenter* segmenter) { delete segmenter; }
}
