// The C ABI: arguments are checked, exceptions become codes, nothing else happens here.
#include "nerve/nerve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>

#include "error.h"
#include "labels.h"
#include "segmenter.h"
#include "unicode.h"

struct nerve_segmenter {
    std::unique_ptr<nerve::Segmenter> segmenter;
};

namespace nerve {

namespace {

constexpr size_t OLDEST_PARAMS_BYTES = offsetof(nerve_params, on_warning);  // what the first programs may know
constexpr size_t OLDEST_INFO_BYTES = sizeof(nerve_info);
constexpr size_t OLDEST_FRAME_BYTES = sizeof(nerve_frame);
constexpr size_t OLDEST_RESULT_BYTES = sizeof(nerve_result);
constexpr size_t LARGEST_STRUCT_BYTES = 1 << 16;
constexpr int64_t FRAME_PIXELS_LIMIT = int64_t{1} << 30;

// The text of this thread's last error; `fixed` is told instead where there was no memory for it.
struct LastError {
    std::string message;
    const char* fixed = nullptr;

    void set(const char* given) noexcept {
        fixed = nullptr;
        try {
            message = encode_utf8(decode_leniently(given));  // ONNX Runtime quotes the bytes of a broken graph
        } catch (const std::bad_alloc&) {
            fixed = "memory ran out; use smaller frames or fewer classes";
        }
    }
};

LastError& last_error() {
    thread_local LastError error;
    return error;
}

// Runs what a function of the ABI does; no exception leaves it.
template <typename Body>
nerve_code guarded(Body body) noexcept {
    try {
        last_error().set("");
        body();
        return NERVE_OK;
    } catch (const Error& error) {
        last_error().set(error.what());
        return error.code;
    } catch (const std::bad_alloc&) {
        last_error().set("memory ran out; use smaller frames or fewer classes");
        return NERVE_RESOURCE;
    } catch (const std::exception& error) {
        last_error().set(error.what());
    } catch (...) {
        last_error().set("an exception that is none of this library's passed through it; on_warning may throw none");
    }
    return NERVE_INTERNAL;
}

void require(bool given, const char* what) {
    if (!given) fail(NERVE_USAGE, {what, " is NULL, expected a pointer"});
}

void check_struct_size(const char* what, size_t size, size_t oldest) {
    if (size < oldest || size > LARGEST_STRUCT_BYTES)
        fail(NERVE_USAGE, {what, ".struct_size is not sizeof(nerve_", what, "), at least ", decimal(static_cast<int64_t>(oldest)),
                           "; set it, of nerve_params by nerve_params_init"});
}

nerve_params default_params() {
    nerve_params params;
    std::memset(&params, 0, sizeof params);
    params.struct_size = sizeof params;
    params.between = NERVE_WARM;
    params.keyframe_every = params.scores_every = 1;
    params.longest_s = INFINITY;
    params.tau = params.alpha = params.beta = params.head_temperature = params.threshold = NAN;
    return params;
}

// The caller's parameters; what an older program does not know has its default.
nerve_params known_params(const nerve_params* given) {
    require(given, "params");
    check_struct_size("params", given->struct_size, OLDEST_PARAMS_BYTES);
    nerve_params params = default_params();
    std::memcpy(&params, given, std::min(given->struct_size, sizeof params));
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    for (size_t place = sizeof params; place < given->struct_size; ++place)
        if (bytes[place] != 0)
            fail(NERVE_USAGE, {"params has an option that this library, version ", nerve_version(),
                               ", does not know; use the library that the program was built for"});
    return params;
}

VideoFrame checked_frame(const nerve_frame* frame) {
    require(frame, "frame");
    check_struct_size("frame", frame->struct_size, OLDEST_FRAME_BYTES);
    require(frame->pixels, "frame.pixels");
    const int64_t height = frame->height, width = frame->width;
    if (height < 1 || width < 1 || height * width > FRAME_PIXELS_LIMIT)
        fail(NERVE_USAGE, {"the frame is ", decimal(width), " x ", decimal(height), " pixels, expected 1 to ",
                           decimal(FRAME_PIXELS_LIMIT), " in all"});
    if (frame->stride < 3 * width && frame->stride > -3 * width)
        fail(NERVE_USAGE,
             {"frame.stride is ", decimal(frame->stride), " bytes, expected at least 3 * width = ", decimal(3 * width)});
    if (frame->format != NERVE_RGB && frame->format != NERVE_BGR)
        fail(NERVE_USAGE, {"frame.format is ", decimal(frame->format), ", expected NERVE_RGB or NERVE_BGR"});
    const ImageView picture = {frame->pixels, frame->height, frame->width, frame->stride, frame->format == NERVE_BGR};
    return {picture, frame->time_s, frame->flow};
}

Segmenter& opened(nerve_segmenter* segmenter) {
    require(segmenter, "segmenter");
    return *segmenter->segmenter;
}

const Segmenter& opened(const nerve_segmenter* segmenter) {
    require(segmenter, "segmenter");
    return *segmenter->segmenter;
}

std::array<int, 2> motion_hw(const Geometry& geometry) { return motion_size_hw(geometry.working_hw[0], geometry.working_hw[1]); }

void segment(nerve_segmenter* handle, const nerve_frame* given, nerve_result* result) {
    const auto started = std::chrono::steady_clock::now();
    Segmenter& segmenter = opened(handle);
    const VideoFrame frame = checked_frame(given);
    require(result, "result");
    check_struct_size("result", result->struct_size, OLDEST_RESULT_BYTES);
    require(result->labels, "result.labels");
    const ImageView& picture = frame.picture;
    const size_t needed = size_t(picture.height) * size_t(picture.width) * nerve_label_bytes(handle);
    if (result->labels_bytes < needed)
        fail(NERVE_USAGE, {"result.labels has room for ", decimal(result->labels_bytes), " bytes, the labels of this frame take ",
                           decimal(needed)});
    const ReadOutTarget target = {picture.height, picture.width, result->labels, result->confidence};
    const FrameRecord record = segmenter.segment(frame, target);
    result->valid = record.valid;
    result->keyframe = record.keyframe;
    result->affinity_age = record.affinity_age;
    result->total_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
}

void write_info(const Segmenter& segmenter, nerve_info* info) {
    require(info, "info");
    check_struct_size("info", info->struct_size, OLDEST_INFO_BYTES);
    const Manifest& manifest = segmenter.bundle().manifest;
    info->working_height = manifest.geometry.working_hw[0];
    info->working_width = manifest.geometry.working_hw[1];
    info->motion_height = motion_hw(manifest.geometry)[0];
    info->motion_width = motion_hw(manifest.geometry)[1];
    info->max_classes = manifest.geometry.max_classes;
    info->random_weights = manifest.random_weights;
}

void write_grey(const Segmenter& segmenter, const nerve_frame* frame, uint8_t* grey) {
    require(grey, "grey");
    const Geometry& geometry = segmenter.bundle().manifest.geometry;
    const int height = geometry.working_hw[0], width = geometry.working_hw[1];
    const std::vector<uint8_t> working = resize_frame(checked_frame(frame).picture, height, width);
    const std::vector<uint8_t> picture = grey_picture(working.data(), height, width);
    std::copy(picture.begin(), picture.end(), grey);
}

}  // namespace

}  // namespace nerve

using nerve::guarded;

const char* nerve_version(void) { return NERVE_VERSION; }

const char* nerve_last_error(void) {
    const nerve::LastError& error = nerve::last_error();
    return error.fixed ? error.fixed : error.message.c_str();
}

void nerve_params_init(nerve_params* params, size_t struct_size) {
    if (!params) return;
    const nerve_params usual = nerve::default_params();
    std::memset(params, 0, struct_size);
    std::memcpy(params, &usual, std::min(struct_size, sizeof usual));
    params->struct_size = struct_size;
}

void nerve_params_video(nerve_params* params) {
    if (!params) return;
    nerve_params usual = nerve::default_params();
    std::memcpy(&usual, params, std::min(params->struct_size, sizeof usual));
    usual.keyframe_every = 10;
    usual.longest_s = 2.0;
    usual.between = NERVE_FOLLOW;
    usual.scores_every = 1;
    usual.smoothing = 0.5;
    usual.change = 0.35;
    usual.cut = 0.45;
    std::memcpy(params, &usual, std::min(params->struct_size, sizeof usual));
}

nerve_code nerve_open(const char* bundle, const nerve_params* params, nerve_segmenter** segmenter) {
    return guarded([&] {
        nerve::require(bundle, "bundle");
        nerve::require(segmenter, "segmenter");
        auto opened = std::make_shared<nerve::OpenedBundle>(bundle, nerve::known_params(params));
        *segmenter = new nerve_segmenter{std::make_unique<nerve::Segmenter>(std::move(opened), nullptr)};
    });
}

nerve_code nerve_new_video(nerve_segmenter* segmenter, nerve_segmenter** video) {
    return guarded([&] {
        nerve::require(video, "video");
        *video = new nerve_segmenter{nerve::opened(segmenter).new_video()};
    });
}

nerve_code nerve_set_classes(nerve_segmenter* segmenter, const char* classes, const char* background) {
    return guarded([&] {
        nerve::Segmenter& opened = nerve::opened(segmenter);
        nerve::require(classes, "classes");
        const auto words = background && *background ? std::optional<std::string>(background) : std::nullopt;
        opened.set_bank(opened.bundle().encoder.of_classes(classes, words));
    });
}

nerve_code nerve_set_vocabulary(nerve_segmenter* segmenter, const char* path) {
    return guarded([&] {
        nerve::Segmenter& opened = nerve::opened(segmenter);
        nerve::require(path, "path");
        opened.set_bank(opened.bundle().encoder.of_file(path));
    });
}

int32_t nerve_class_count(const nerve_segmenter* segmenter) {
    return segmenter ? static_cast<int32_t>(segmenter->segmenter->class_names().size()) : 0;
}

const char* nerve_class_name(const nerve_segmenter* segmenter, int32_t label) {
    if (label < 0 || label >= nerve_class_count(segmenter)) return nullptr;
    return segmenter->segmenter->class_names()[static_cast<size_t>(label)].c_str();
}

size_t nerve_label_bytes(const nerve_segmenter* segmenter) {
    return nerve_class_count(segmenter) <= nerve::CLASSES_LIMIT_8_BIT ? 1 : 2;
}

const char* nerve_description(const nerve_segmenter* segmenter) {
    return segmenter ? segmenter->segmenter->bundle().description.c_str() : "";
}

nerve_code nerve_get_info(const nerve_segmenter* segmenter, nerve_info* info) {
    return guarded([&] { nerve::write_info(nerve::opened(segmenter), info); });
}

nerve_code nerve_grey(const nerve_segmenter* segmenter, const nerve_frame* frame, uint8_t* grey) {
    return guarded([&] { nerve::write_grey(nerve::opened(segmenter), frame, grey); });
}

nerve_code nerve_segment(nerve_segmenter* segmenter, const nerve_frame* frame, nerve_result* result) {
    const nerve_code code = guarded([&] { nerve::segment(segmenter, frame, result); });
    if (code != NERVE_OK) nerve_reset(segmenter);
    return code;
}

void nerve_reset(nerve_segmenter* segmenter) {
    if (segmenter) segmenter->segmenter->reset();
}

void nerve_stop(nerve_segmenter* segmenter) {
    if (segmenter) guarded([&] { segmenter->segmenter->bundle().backend->stop(); });
}

void nerve_close(nerve_segmenter* segmenter) { delete segmenter; }
