// Two segmenters that share graphs and one of its own, in three threads at once: two_threads ONNXRUNTIME BUNDLE VOCABULARY
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "nerve/nerve.hpp"

namespace {

constexpr int HEIGHT = 60, WIDTH = 80, FRAMES = 6;

// The labels of a few frames, after a change of classes too.
std::vector<std::uint8_t> labels_of(nerve::Segmenter& segmenter, const std::string& vocabulary) {
    std::vector<std::uint8_t> labels;
    for (int number = 0; number < FRAMES; ++number) {
        std::vector<std::uint8_t> pixels(HEIGHT * WIDTH * 3);
        for (std::size_t place = 0; place < pixels.size(); ++place)
            pixels[place] = static_cast<std::uint8_t>(place * 7 + static_cast<std::size_t>(number) * 31);
        if (number == 2) segmenter.set_classes("zebra; grass; sky");
        if (number == 4) segmenter.set_vocabulary(vocabulary);
        const nerve::Result result = segmenter.segment(pixels.data(), HEIGHT, WIDTH);
        labels.insert(labels.end(), result.labels8.begin(), result.labels8.end());
    }
    return labels;
}

}  // namespace

int main(int, char** words) {
    nerve::Params params;
    params.onnxruntime = words[1];
    params.threads = 1;
    params.keyframe_every = 3;
    nerve::Segmenter first(words[2], params), alone(words[2], params);
    first.set_vocabulary(words[3]);
    alone.set_vocabulary(words[3]);
    nerve::Segmenter second = first.new_video();
    nerve::Segmenter* const segmenters[] = {&first, &second, &alone};
    std::vector<std::uint8_t> labels[3];
    std::vector<std::thread> threads;
    for (int number = 0; number < 3; ++number)
        threads.emplace_back([&, number] { labels[number] = labels_of(*segmenters[number], words[3]); });
    for (std::thread& thread : threads) thread.join();
    const bool equal = labels[0] == labels[1] && labels[1] == labels[2];
    std::puts(equal ? "equal" : "different");
    std::fflush(stdout);
    // Without the exit handlers of ONNX Runtime, which is not built with the sanitizer, so that it misses their locks.
    std::_Exit(equal ? 0 : 1);
}
