// Runs engines on the stand-ins for TensorRT while things fail, for the sanitizers: nvinfer_faults BUNDLE VOCABULARY
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nerve/nerve.hpp"

extern "C" void standin_fail(const char* kind, long passed);

namespace {

constexpr int HEIGHT = 90, WIDTH = 140;
constexpr long CHANCES_LIMIT = 200;

struct Run {
    const char* bundle;
    const char* vocabulary;

    std::unique_ptr<nerve::Segmenter> open(nerve_between between) const {
        nerve::Params params;
        params.provider = NERVE_TENSORRT_NATIVE;
        params.between = between;
        params.keyframe_every = 3;
        params.smoothing = params.change = params.cut = 0;
        auto segmenter = std::make_unique<nerve::Segmenter>(bundle, params);
        segmenter->set_vocabulary(vocabulary);
        return segmenter;
    }
};

std::vector<std::uint8_t> picture(int height, int seed) {
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(height) * WIDTH * 3);
    for (std::size_t place = 0; place < pixels.size(); ++place)
        pixels[place] = static_cast<std::uint8_t>(place * place / 977 + static_cast<std::size_t>(seed) * 40);
    return pixels;
}

std::vector<std::uint8_t> segment(nerve::Segmenter& segmenter, int seed, int height = HEIGHT) {
    const std::vector<std::uint8_t> pixels = picture(height, seed);
    const nerve_info info = segmenter.info();
    const std::vector<float> flow(static_cast<std::size_t>(info.motion_height) * static_cast<std::size_t>(info.motion_width) * 2);
    nerve::Frame frame(pixels.data(), height, WIDTH);
    frame.flow = flow.data();
    return segmenter.segment(frame).labels8;
}

// Whether a call fails as it may; a mistake of the library ends the program.
bool fails(const std::function<void()>& call) {
    try {
        call();
    } catch (const nerve::Error& error) {
        if (error.code() == NERVE_INTERNAL) throw;
        return true;
    }
    return false;
}

// A video of three frames, the last of another size.
bool video_fails(nerve::Segmenter& segmenter) {
    bool failed = false;
    for (int seed = 0; seed < 3; ++seed) failed = fails([&] { segment(segmenter, seed, HEIGHT + seed / 2); }) || failed;
    return failed;
}

// Of a hundred chances in a video, not a dozen; each takes a second or two under a sanitizer.
bool is_numerous(const std::string& kind) { return kind == "device" || kind == "pinned" || kind == "shape" || kind == "address"; }

// Let chances for a fault come true, each `step`-th until there are no more; returns about how many there were.
long count_chances(const char* kind, long step, const std::function<bool()>& run_fails) {
    for (long chance = 0; chance < CHANCES_LIMIT; chance += step) {
        standin_fail(kind, chance);
        const bool failed = run_fails();
        standin_fail(kind, -1);
        if (!failed) return chance;
    }
    throw std::runtime_error(std::string("no end of faults of kind ") + kind);
}

// Several videos of shared graphs in threads of their own give the labels of one.
void try_threads(const Run& run) {
    const auto first = run.open(NERVE_FOLLOW);
    std::vector<std::vector<std::uint8_t>> expected;
    for (int seed = 0; seed < 6; ++seed) expected.push_back(segment(*first, seed));
    first->reset();
    std::vector<nerve::Segmenter> videos;
    for (int number = 0; number < 3; ++number) videos.push_back(first->new_video());
    std::vector<std::thread> threads;
    std::vector<int> same(videos.size());
    for (std::size_t number = 0; number < videos.size(); ++number)
        threads.emplace_back([&, number] {
            for (int seed = 0; seed < 6; ++seed)
                same[number] += segment(videos[number], seed) == expected[static_cast<std::size_t>(seed)];
        });
    for (std::thread& thread : threads) thread.join();
    for (const int count : same)
        if (count != 6) throw std::runtime_error("threads give other labels");
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) return 2;
    const Run run = {words[1], words[2]};
    try {
        try_threads(run);
        for (const char* kind : {"load", "load memory", "context", "runtime", "stream", "device", "pinned", "shape"}) {
            const long chances = count_chances(kind, is_numerous(kind) ? 3 : 1, [&] {
                bool failed = false;
                return fails([&] { failed = video_fails(*run.open(NERVE_FOLLOW)); }) || failed;
            });
            std::printf("%s %ld\n", kind, chances);
        }
        const auto segmenter = run.open(NERVE_FOLLOW);
        for (const char* kind : {"copy", "enqueue", "enqueue memory", "kernel", "address", "infer"}) {
            const long chances = count_chances(kind, is_numerous(kind) ? 3 : 1, [&] {
                segmenter->reset();
                return video_fails(*segmenter);
            });
            std::printf("%s %ld\n", kind, chances);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
