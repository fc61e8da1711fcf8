// What nerve.hpp and overlay.hpp do with cv::Mat, each check by its name: opencv_checks NAME BUNDLE. Against the fake library.
#include <nerve/nerve.hpp>
#include <nerve/overlay.hpp>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace {

std::string bundle;

#define CLAIM(claim)                                                           \
    do {                                                                       \
        if (!(claim)) {                                                        \
            std::fprintf(stderr, "line %d: not true: %s\n", __LINE__, #claim); \
            std::exit(1);                                                      \
        }                                                                      \
    } while (0)

// Smooth, with red from 0 to 199, so that flow has something to hold on to; `shift` pixels to the right.
cv::Mat picture_shifted_by(int shift) {
    cv::Mat picture(192, 256, CV_8UC3);
    for (int row = 0; row < picture.rows; ++row)
        for (int column = 0; column < picture.cols; ++column) {
            const double x = column - shift, level = 100 + 60 * std::sin(x / 9) + 40 * std::cos(row / 7.0 + x / 31);
            picture.at<cv::Vec3b>(row, column) = cv::Vec3b::all(cv::saturate_cast<uchar>(level));
        }
    return picture;
}

nerve::Segmenter opened(const nerve::Params& params) {
    nerve::Segmenter segmenter(bundle, params);
    segmenter.set_classes("a; b; c");
    return segmenter;
}

// For each frame so far: "null", or the mean of the flow by x.
std::vector<std::string> logged_flows() {
    std::ifstream file(std::getenv("NERVE_FAKE_LOG"));
    std::vector<std::string> flows;
    for (std::string line; std::getline(file, line);) {
        const std::size_t start = line.find("\"flow\": ") + 8;
        flows.push_back(line.substr(start, line.find(',', start) - start));
    }
    return flows;
}

void matrices_are_labelled() {
    nerve::Segmenter segmenter = opened(nerve::Params());
    const cv::Mat large(8, 8, CV_8UC3, cv::Scalar(200, 77, 4));  // blue, green, red
    const cv::Mat part = large(cv::Rect(1, 2, 5, 3));
    part.row(2).setTo(cv::Scalar(200, 88, 5));  // a row that only the stride leads to
    const nerve::MatResult result = segmenter.segment(part);
    CLAIM(result.labels.type() == CV_8U && result.labels.size() == cv::Size(5, 3) && result.confidence.type() == CV_8U);
    CLAIM(result.labels.at<uchar>(1, 4) == 4 % 3 && result.confidence.at<uchar>(1, 4) == 77);
    CLAIM(cv::countNonZero(result.labels.row(2) != 5 % 3) == 0 && cv::countNonZero(result.confidence.row(2) != 88) == 0);
    CLAIM(segmenter.segment(part, NAN, NERVE_RGB).labels.at<uchar>(0, 0) == 200 % 3);
    std::string many = "class 0";
    for (int label = 1; label < 300; ++label) many += "; class " + std::to_string(label);
    segmenter.set_classes(many);
    const nerve::MatResult wide = segmenter.segment(part);
    CLAIM(wide.labels.type() == CV_16U && wide.labels.at<ushort>(1, 4) == 4);
    CLAIM(result.labels.at<uchar>(0, 0) == 1);  // results own their pixels
}

void other_matrices_are_refused() {
    nerve::Segmenter segmenter = opened(nerve::Params());
    for (const cv::Mat& wrong : {cv::Mat(), cv::Mat(4, 4, CV_8U), cv::Mat(4, 4, CV_8UC4), cv::Mat(4, 4, CV_32FC3)}) {
        std::string message;
        try {
            segmenter.segment(wrong);
        } catch (const nerve::Error& error) {
            message = error.what();
            CLAIM(error.code() == NERVE_USAGE);
        }
        CLAIM(message.find("expected pixels of CV_8UC3") != std::string::npos);
    }
}

void motion_is_followed_from_the_second_frame() {
    nerve::Segmenter segmenter = opened(nerve::Params::video());
    for (int shift : {0, 4, 8}) segmenter.segment(picture_shifted_by(shift), shift / 25.0);
    const std::vector<std::string> flows = logged_flows();
    CLAIM(flows.size() == 3 && flows[0] == "null");
    for (int frame : {1, 2})  // 4 pixels of 256 are 2 of 128, and lie to the left in the frame before
        CLAIM(std::abs(std::stod(flows[static_cast<std::size_t>(frame)]) + 2) < 0.5);
}

void motion_is_not_measured_where_nothing_uses_it() {
    nerve::Segmenter segmenter = opened(nerve::Params());
    for (int shift : {0, 4}) segmenter.segment(picture_shifted_by(shift));
    CLAIM(logged_flows() == (std::vector<std::string>{"null", "null"}));
}

void motion_is_forgotten_with_the_frame_before() {
    nerve::Segmenter segmenter = opened(nerve::Params::video());
    const cv::Mat picture = picture_shifted_by(0), white(192, 256, CV_8UC3, cv::Scalar::all(255));
    const auto next_has_flow = [&] {
        segmenter.segment(picture);
        return logged_flows().back() != "null";
    };
    CLAIM(!next_has_flow() && next_has_flow());
    segmenter.reset();
    CLAIM(!next_has_flow() && next_has_flow());
    CLAIM(!segmenter.segment(white).valid);
    CLAIM(!next_has_flow() && next_has_flow());
    segmenter.segment(nerve::Frame(picture.data, 192, 256));  // its motion was not measured
    CLAIM(!next_has_flow() && next_has_flow());
    setenv("NERVE_FAKE_FAIL", "nerve_segment=6:memory ran out", 1);
    try {
        segmenter.segment(picture);
        CLAIM(false);
    } catch (const nerve::Error&) {
    }
    unsetenv("NERVE_FAKE_FAIL");
    CLAIM(!next_has_flow() && next_has_flow());
}

void flow_takes_no_first_guess() {
    cv::Mat greys[3];
    for (int frame = 0; frame < 3; ++frame) cv::extractChannel(picture_shifted_by(5 * frame * frame), greys[frame], 0);
    nerve::OpticalFlow chained;
    CLAIM(chained.next(greys[0]).empty());
    const cv::Mat first = chained.next(greys[1]), kept = first.clone(), second = chained.next(greys[2]);
    nerve::OpticalFlow fresh;
    fresh.next(greys[1]);
    CLAIM(cv::norm(second, fresh.next(greys[2]), cv::NORM_INF) == 0);
    CLAIM(cv::norm(first, kept, cv::NORM_INF) == 0);
}

void overlays_colour_labels() {
    const cv::Mat picture(2, 2, CV_8UC3, cv::Scalar(10, 20, 30));
    const cv::Mat labels = (cv::Mat_<uchar>(2, 2) << 0, 1, 0, 255);
    const cv::Mat drawn = nerve::overlay(picture, labels);
    CLAIM(drawn.at<cv::Vec3b>(0, 0) == drawn.at<cv::Vec3b>(1, 0) && drawn.at<cv::Vec3b>(0, 0) != drawn.at<cv::Vec3b>(0, 1));
    CLAIM(drawn.at<cv::Vec3b>(1, 1) == cv::Vec3b(10, 20, 30));                               // no label
    CLAIM(nerve::overlay(picture, labels, 1).at<cv::Vec3b>(0, 0) == cv::Vec3b(10, 20, 30));  // background
    cv::Mat wide;
    labels.convertTo(wide, CV_16U);
    CLAIM(nerve::overlay(picture, wide).at<cv::Vec3b>(1, 1) != cv::Vec3b(10, 20, 30));  // 255 is a class there
    CLAIM(nerve::overlay(picture, wide).at<cv::Vec3b>(0, 1) == drawn.at<cv::Vec3b>(0, 1));
    CLAIM(picture.at<cv::Vec3b>(0, 0) == cv::Vec3b(10, 20, 30));
}

const std::map<std::string, void (*)()> CHECKS = {
    {"matrices_are_labelled", matrices_are_labelled},
    {"other_matrices_are_refused", other_matrices_are_refused},
    {"motion_is_followed_from_the_second_frame", motion_is_followed_from_the_second_frame},
    {"motion_is_not_measured_where_nothing_uses_it", motion_is_not_measured_where_nothing_uses_it},
    {"motion_is_forgotten_with_the_frame_before", motion_is_forgotten_with_the_frame_before},
    {"flow_takes_no_first_guess", flow_takes_no_first_guess},
    {"overlays_colour_labels", overlays_colour_labels},
};

// Flow between the pictures of two raw files of `height` x `width` bytes, as raw float32.
void write_flow(const char* before, const char* after, int height, int width, const char* output) {
    cv::Mat pictures[2] = {cv::Mat(height, width, CV_8U), cv::Mat(height, width, CV_8U)};
    for (int index = 0; index < 2; ++index)
        std::ifstream(index == 0 ? before : after, std::ios::binary).read(pictures[index].ptr<char>(), height * width);
    nerve::OpticalFlow flow;
    flow.next(pictures[0]);
    const cv::Mat measured = flow.next(pictures[1]);
    std::ofstream(output, std::ios::binary)
        .write(measured.ptr<char>(), static_cast<std::streamsize>(measured.total() * measured.elemSize()));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 7) {
        write_flow(argv[2], argv[3], std::atoi(argv[4]), std::atoi(argv[5]), argv[6]);
        return 0;
    }
    if (argc == 2 && std::string(argv[1]) == "names") {
        for (const auto& check : CHECKS) std::puts(check.first.c_str());
        return 0;
    }
    bundle = argv[2];
    CHECKS.at(argv[1])();
    return 0;
}
