/* A video or a camera in, a video with coloured labels out; a line typed on stdin changes the classes while it runs.
 *
 * From this folder, after make native:
 *
 *     g++ -std=c++17 -O2 segment_video.cpp -I../include $(pkg-config --cflags opencv4) -L../../../build/native \
 *         -Wl,-rpath,$PWD/../../../build/native -lnerve -lopencv_videoio -lopencv_imgproc -lopencv_video -lopencv_core -pthread
 * -o segment_video
 *     ./segment_video ../../../bundles/tiny "road; car; tree" street.mp4 overlay.mp4      (or 0: the first camera)
 *
 * Ctrl-C or the line "q" ends it with a whole file. ONNX Runtime is found as the system finds libraries, or at the path in
 * NERVE_ONNXRUNTIME.
 */
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <nerve/nerve.hpp>
#include <nerve/overlay.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>

namespace {

volatile std::sig_atomic_t is_interrupted = 0;

void interrupt(int) { is_interrupted = 1; }

// Text that was typed so far; false once stdin has ended.
bool read_typed(std::string* typed) {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (poll(&input, 1, 0) <= 0) return true;
    char characters[512];
    const ssize_t count = read(STDIN_FILENO, characters, sizeof characters);
    if (count > 0) typed->append(characters, static_cast<std::size_t>(count));
    return count > 0;
}

// Takes the first whole line out of the text; empty when there is none.
std::string next_line(std::string* typed) {
    const std::size_t end = typed->find('\n');
    if (end == std::string::npos) return std::string();
    const std::string line = typed->substr(0, end);
    typed->erase(0, end + 1);
    return line;
}

// A bad list is told and changes nothing.
void change_classes(nerve::Segmenter& segmenter, const std::string& classes) {
    try {
        segmenter.set_classes(classes);
        std::fprintf(stderr, "classes are now: %s\n", classes.c_str());
    } catch (const nerve::Error& error) {
        std::fprintf(stderr, "%s; the classes stay as they are\n", error.what());
    }
}

cv::VideoCapture open_source(const std::string& source) {
    const bool is_camera = source.find_first_not_of("0123456789") == std::string::npos;
    cv::VideoCapture capture = is_camera ? cv::VideoCapture(std::stoi(source)) : cv::VideoCapture(source);
    if (!capture.isOpened()) throw nerve::Error(NERVE_USAGE, source + " cannot be opened as a video or a camera");
    return capture;
}

cv::VideoWriter open_output(const std::string& path, const cv::VideoCapture& capture, cv::Size size) {
    const double rate = capture.get(cv::CAP_PROP_FPS);
    cv::VideoWriter writer(path, cv::VideoWriter::fourcc('m', 'p', '4', 'v'), rate > 0 && rate < 1000 ? rate : 25, size);
    if (!writer.isOpened())  // without this check frames would be dropped in silence
        throw nerve::Error(NERVE_RESOURCE, path + " cannot be written; expected a folder that is there and a name in .mp4");
    return writer;
}

// The names and their colours, from the upper left corner down.
void draw_legend(cv::Mat* picture, const std::vector<std::string>& names) {
    for (int label = 0, y = 4; label < static_cast<int>(names.size()) && y + 20 <= picture->rows; ++label, y += 20) {
        const cv::Mat swatch = picture->operator()(cv::Rect(0, y, std::min(20, picture->cols), 16));
        nerve::overlay(swatch, cv::Mat(swatch.size(), CV_16U, cv::Scalar(label)), 0, 1.0).copyTo(swatch);
        const cv::Point place(24, y + 13);
        cv::putText(*picture, names[static_cast<std::size_t>(label)], place, cv::FONT_HERSHEY_SIMPLEX, 0.45, {0, 0, 0}, 3);
        cv::putText(*picture, names[static_cast<std::size_t>(label)], place, cv::FONT_HERSHEY_SIMPLEX, 0.45, {255, 255, 255}, 1);
    }
}

void segment_video(const std::string& bundle, const std::string& classes, const std::string& source, const std::string& output) {
    nerve::Params params = nerve::Params::video();
    params.onnxruntime = std::getenv("NERVE_ONNXRUNTIME");
    params.warn = [](const std::string& message) { std::fprintf(stderr, "warning: %s\n", message.c_str()); };
    nerve::Segmenter segmenter(bundle, params);
    segmenter.set_classes(classes);
    cv::VideoCapture capture = open_source(source);
    cv::VideoWriter writer;
    cv::Mat picture;
    std::string typed;
    bool is_typing = true;
    int frames = 0, keyframes = 0;
    double spent_ms = 0;
    while (!is_interrupted && capture.read(picture)) {
        if (is_typing) is_typing = read_typed(&typed);
        const std::string line = next_line(&typed);
        if (line == "q") break;
        if (!line.empty()) change_classes(segmenter, line);
        const nerve::MatResult result = segmenter.segment(picture, capture.get(cv::CAP_PROP_POS_MSEC) / 1000);
        if (!writer.isOpened()) writer = open_output(output, capture, picture.size());
        cv::Mat drawn = nerve::overlay(picture, result.labels);
        draw_legend(&drawn, segmenter.class_names());
        writer.write(drawn);
        ++frames;
        keyframes += result.keyframe;
        spent_ms += result.total_ms;
    }
    if (frames == 0) throw nerve::Error(NERVE_USAGE, source + " has no frame that can be decoded");
    std::fprintf(stderr, "%s: %d frames, %d keyframes, %.1f ms each\n", output.c_str(), frames, keyframes, spent_ms / frames);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) {
        std::fprintf(stderr, "usage: segment_video BUNDLE CLASSES VIDEO_OR_CAMERA_NUMBER overlay.mp4\n");
        return NERVE_USAGE;
    }
    std::signal(SIGINT, interrupt);
    try {
        segment_video(argv[1], argv[2], argv[3], argv[4]);
        return NERVE_OK;
    } catch (const nerve::Error& error) {
        std::fprintf(stderr, "segment_video: %s\n", error.what());
        return error.code();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "segment_video: %s\n", error.what());
        return NERVE_INTERNAL;
    }
}
