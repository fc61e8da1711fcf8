// Checks of nerve.hpp against the fake library, each by its name: wrapper_checks NAME BUNDLE. Ends with 0, or says which claim
// does not hold.
#include <nerve/nerve.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

extern "C" {
int fake_open_handles();
void fake_fail(const char* how);
}

namespace {

std::string bundle;
long allocations_left = -1;  // then std::bad_alloc; -1: never

#define CLAIM(claim)                                                           \
    do {                                                                       \
        if (!(claim)) {                                                        \
            std::fprintf(stderr, "line %d: not true: %s\n", __LINE__, #claim); \
            std::exit(1);                                                      \
        }                                                                      \
    } while (0)

static_assert(!std::is_copy_constructible<nerve::Segmenter>::value, "one owner");
static_assert(!std::is_copy_assignable<nerve::Segmenter>::value, "one owner");
static_assert(std::is_nothrow_move_constructible<nerve::Segmenter>::value, "moves cannot fail");
static_assert(std::is_nothrow_move_assignable<nerve::Segmenter>::value, "moves cannot fail");

// The error of a call that has to fail.
nerve::Error error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const nerve::Error& error) {
        return error;
    }
    std::fprintf(stderr, "no exception\n");
    std::exit(1);
}

// 2 x 3 pixels; red counts from 0, green is 100 more, blue 200.
const std::vector<std::uint8_t> PIXELS = {0, 100, 200, 1, 101, 201, 2, 102, 202, 3, 103, 203, 4, 104, 204, 5, 105, 205};

std::string numbered_classes(int count) {
    std::string classes = "class 0";
    for (int label = 1; label < count; ++label) classes += "; class " + std::to_string(label);
    return classes;
}

void labels_of_8_bits() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a; b, bee; c; d");
    CLAIM(segmenter.class_names() == (std::vector<std::string>{"a", "b", "c", "d"}));
    const nerve::Result rgb = segmenter.segment(PIXELS.data(), 2, 3);
    CLAIM(rgb.height == 2 && rgb.width == 3 && rgb.valid && rgb.keyframe && rgb.affinity_age == 0 && rgb.total_ms == 1.5);
    CLAIM(rgb.labels8 == (std::vector<std::uint8_t>{0, 1, 2, 3, 0, 1}) && rgb.labels16.empty());
    CLAIM(rgb.confidence == (std::vector<std::uint8_t>{100, 101, 102, 103, 104, 105}));
    CLAIM(rgb.label(1, 0) == 3 && rgb.label(1, 2) == 1);
    const nerve::Result bgr = segmenter.segment(PIXELS.data(), 2, 3, NERVE_BGR);
    CLAIM(bgr.label(0, 0) == 200 % 4 && bgr.label(1, 2) == 205 % 4);
    nerve::Frame frame(PIXELS.data(), 2, 2);  // the left two of three columns
    frame.stride = 9;
    CLAIM(segmenter.segment(frame).labels8 == (std::vector<std::uint8_t>{0, 1, 3, 0}));
}

void labels_of_16_bits() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes(numbered_classes(254));
    CLAIM(segmenter.segment(PIXELS.data(), 2, 3).labels16.empty());
    segmenter.set_classes(numbered_classes(255));
    const nerve::Result result = segmenter.segment(PIXELS.data(), 2, 3);
    CLAIM(result.labels8.empty() && result.labels16 == (std::vector<std::uint16_t>{0, 1, 2, 3, 4, 5}));
    CLAIM(result.label(1, 2) == 5);
}

void no_label_is_minus_one() {
    const std::vector<std::uint8_t> white(3 * 6, 255);
    nerve::Segmenter segmenter(bundle);
    for (int classes : {2, 300}) {
        segmenter.set_classes(numbered_classes(classes));
        const nerve::Result result = segmenter.segment(white.data(), 2, 3);
        CLAIM(!result.valid && result.label(0, 0) == -1 && result.label(1, 2) == -1 && result.confidence[0] == 0);
    }
}

void places_outside_are_refused() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a; b");
    const nerve::Result result = segmenter.segment(PIXELS.data(), 2, 3);
    const std::vector<std::pair<int, int>> outside = {{-1, 0}, {0, -1}, {2, 0}, {0, 3}};
    for (const auto& place : outside) {
        bool is_refused = false;
        try {
            result.label(place.first, place.second);
        } catch (const std::out_of_range&) {
            is_refused = true;
        }
        CLAIM(is_refused);
    }
}

void every_call_throws_what_the_library_says() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a; b");
    const std::map<std::string, std::function<void()>> calls = {
        {"nerve_open", [] { nerve::Segmenter other(bundle); }},
        {"nerve_new_video", [&] { segmenter.new_video(); }},
        {"nerve_set_classes", [&] { segmenter.set_classes("c; d"); }},
        {"nerve_set_vocabulary", [&] { segmenter.set_vocabulary("words.nerve"); }},
        {"nerve_get_info", [&] { segmenter.info(); }},
        {"nerve_segment", [&] { segmenter.segment(PIXELS.data(), 2, 3); }},
#ifdef NERVE_WITH_OPENCV
        {"nerve_grey",
         [] {
             nerve::Segmenter video(bundle, nerve::Params::video());
             video.set_classes("a; b");
             video.segment(cv::Mat(4, 4, CV_8UC3, cv::Scalar(1, 2, 3)));
         }},
#endif
    };
    for (const auto& call : calls)
        for (int code : {1, 2, 3, 4, 6, 7}) {
            const std::string how = call.first + "=" + std::to_string(code) + ":it broke";
            fake_fail(how.c_str());
            const nerve::Error error = error_of(call.second);
            fake_fail("");
            CLAIM(error.code() == static_cast<nerve_code>(code) && std::string(error.what()) == "it broke");
            CLAIM(fake_open_handles() == 1);
        }
    CLAIM(segmenter.class_names() == (std::vector<std::string>{"a", "b"}));
    CLAIM(segmenter.segment(PIXELS.data(), 2, 3).label(0, 1) == 1);
}

void bad_arguments_are_refused_by_the_library() {
    CLAIM(error_of([] { nerve::Segmenter segmenter(bundle + "/nowhere"); }).code() == NERVE_BUNDLE);
    nerve::Params params;
    params.keyframe_every = 0;
    CLAIM(std::string(error_of([&] { nerve::Segmenter segmenter(bundle, params); }).what()) ==
          "keyframe-every is 0, expected 1 or more frames");
    nerve::Segmenter segmenter(bundle);
    CLAIM(error_of([&] { segmenter.segment(PIXELS.data(), 2, 3); }).code() == NERVE_USAGE);  // no classes yet
    segmenter.set_classes("a; b");
    CLAIM(error_of([&] { segmenter.set_classes("a"); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { segmenter.set_classes(std::string("a; b\0; c", 8)); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { segmenter.set_classes("a; b", std::string("x\0", 2)); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { segmenter.segment(nullptr, 2, 3); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { segmenter.segment(PIXELS.data(), 0, 3); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { segmenter.segment(PIXELS.data(), 2, -2147483647); }).code() == NERVE_USAGE);
    CLAIM(segmenter.class_names().size() == 2);
}

void background_is_class_0() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a", "sky, wall");
    CLAIM(segmenter.class_names() == (std::vector<std::string>{"background", "a"}));
}

void moves_keep_one_owner() {
    nerve::Segmenter first(bundle);
    first.set_classes("a; b");
    nerve::Segmenter second(std::move(first));
    CLAIM(fake_open_handles() == 1 && second.class_names().size() == 2);
    CLAIM(error_of([&] { first.class_names(); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { first.segment(PIXELS.data(), 2, 3); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { first.reset(); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { first.stop(); }).code() == NERVE_USAGE);
    CLAIM(error_of([&] { first.new_video(); }).code() == NERVE_USAGE);
    nerve::Segmenter third(bundle);
    CLAIM(fake_open_handles() == 2);
    third = std::move(second);
    CLAIM(fake_open_handles() == 1 && third.class_names().size() == 2);
    nerve::Segmenter& itself = third;
    third = std::move(itself);
    CLAIM(third.class_names().size() == 2);
    first = nerve::Segmenter(bundle);
    CLAIM(fake_open_handles() == 2 && first.class_names().empty());
}

void videos_outlive_their_parent() {
    std::vector<nerve::Segmenter> videos;
    {
        nerve::Segmenter parent(bundle);
        parent.set_classes("a; b; c");
        for (int count = 0; count < 5; ++count) videos.push_back(parent.new_video());
        CLAIM(fake_open_handles() == 6);
    }
    CLAIM(fake_open_handles() == 5);
    for (nerve::Segmenter& video : videos) CLAIM(video.segment(PIXELS.data(), 2, 3).label(0, 2) == 2);
}

void warnings_arrive() {
    std::vector<std::string> heard;
    nerve::Params params;
    params.warn = [&heard](const std::string& message) {
        heard.push_back(message);
        if (heard.size() == 2) throw std::runtime_error("dropped");
    };
    std::vector<nerve::Segmenter> videos;
    {
        nerve::Segmenter segmenter(bundle, params);
        CLAIM(heard.size() == 1 && heard[0] == "the bundle has random weights");
        segmenter.set_classes("a; b");
        CLAIM(heard.size() == 2);
        videos.push_back(segmenter.new_video());
    }
    params.warn = nullptr;
    videos[0].set_classes("c; d");
    CLAIM(heard.size() == 3 && heard[2] == "classes are new");
    nerve::Segmenter silent(bundle);
    silent.set_classes("a; b");
    silent = std::move(videos[0]);
    silent.set_classes("e; f");
    CLAIM(heard.size() == 4);
}

void stop_ends_a_frame() {
    setenv("NERVE_FAKE_MS", "20000", 1);
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a; b");
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        segmenter.stop();
    });
    CLAIM(error_of([&] { segmenter.segment(PIXELS.data(), 2, 3); }).code() == NERVE_USAGE);
    other.join();
}

void memory_that_runs_out_changes_nothing() {
    nerve::Segmenter segmenter(bundle);
    segmenter.set_classes("a; b");
    int refused = 0;
    for (allocations_left = 0; allocations_left < 20; ++refused) {
        const long allowed = allocations_left;
        try {
            const nerve::Result result = segmenter.segment(PIXELS.data(), 2, 3);
            const nerve::Segmenter video = segmenter.new_video();
            const nerve::Segmenter other(bundle);
            allocations_left = -1;
            break;
        } catch (const std::bad_alloc&) {
        } catch (const nerve::Error& error) {
            CLAIM(error.code() == NERVE_INTERNAL);  // in the fake
        }
        allocations_left = -1;
        CLAIM(fake_open_handles() == 1);
        allocations_left = allowed + 1;
    }
    allocations_left = -1;
    CLAIM(refused >= 4);
    CLAIM(segmenter.segment(PIXELS.data(), 2, 3).label(0, 1) == 1);
}

void info_and_description_are_the_librarys() {
    const nerve::Segmenter segmenter(bundle);
    CLAIM(segmenter.description() == "fake on no provider");
    CLAIM(segmenter.info().working_height == 128 && segmenter.info().motion_height == 96);
    CLAIM(segmenter.info().motion_width == 128 && segmenter.info().random_weights == 1);
}

const std::map<std::string, void (*)()> CHECKS = {
    {"labels_of_8_bits", labels_of_8_bits},
    {"labels_of_16_bits", labels_of_16_bits},
    {"no_label_is_minus_one", no_label_is_minus_one},
    {"places_outside_are_refused", places_outside_are_refused},
    {"every_call_throws_what_the_library_says", every_call_throws_what_the_library_says},
    {"bad_arguments_are_refused_by_the_library", bad_arguments_are_refused_by_the_library},
    {"background_is_class_0", background_is_class_0},
    {"moves_keep_one_owner", moves_keep_one_owner},
    {"videos_outlive_their_parent", videos_outlive_their_parent},
    {"warnings_arrive", warnings_arrive},
    {"stop_ends_a_frame", stop_ends_a_frame},
    {"memory_that_runs_out_changes_nothing", memory_that_runs_out_changes_nothing},
    {"info_and_description_are_the_librarys", info_and_description_are_the_librarys},
};

}  // namespace

// Not inlined: g++ 12 then takes malloc and operator delete for a mismatch.
__attribute__((noinline)) void* operator new(std::size_t size) {
    if (allocations_left >= 0 && allocations_left-- == 0) {
        allocations_left = -1;
        throw std::bad_alloc();
    }
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
    if (argc == 2 && std::string(argv[1]) == "names") {
        for (const auto& check : CHECKS) std::puts(check.first.c_str());
        return 0;
    }
    bundle = argv[2];
    CHECKS.at(argv[1])();
    CLAIM(fake_open_handles() == 0);
    return 0;
}
