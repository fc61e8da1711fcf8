/* Labels drawn over a picture, for who looks at them. Needs OpenCV's core alone. */
#ifndef NERVE_OVERLAY_HPP
#define NERVE_OVERLAY_HPP

#include <array>
#include <cmath>
#include <opencv2/core.hpp>
#include <vector>

namespace nerve {
inline namespace api {

// The picture, CV_8UC3, with a colour over each label from `first_label` on; with background words that is 1.
// `labels`: CV_8U or CV_16U of the same size. `opacity`: of the colours, 0 to 1. Raises cv::Exception.
inline cv::Mat overlay(const cv::Mat& picture, const cv::Mat& labels, int first_label = 0, double opacity = 0.55) {
    CV_Assert(picture.type() == CV_8UC3 && (labels.type() == CV_8U || labels.type() == CV_16U));
    CV_Assert(picture.size() == labels.size());
    const int no_label = labels.type() == CV_8U ? 0xFF : 0xFFFF;
    std::vector<std::array<float, 3>> colours(static_cast<std::size_t>(no_label)); // times the opacity
    for (std::size_t label = 0; label < colours.size(); ++label)
        for (std::size_t channel = 0; channel < 3; ++channel) { // hues a golden angle apart, so that neighbours differ
            const double angle = 2.399963 * static_cast<double>(label) + 2.094395 * static_cast<double>(channel);
            colours[label][channel] = static_cast<float>(opacity * (127.5 + 127.5 * std::cos(angle)));
        }
    const float rest = static_cast<float>(1 - opacity);
    cv::Mat drawn = picture.clone();
    for (int row = 0; row < drawn.rows; ++row)
        for (int column = 0; column < drawn.cols; ++column) {
            const int label = no_label == 0xFF ? labels.at<uchar>(row, column) : labels.at<ushort>(row, column);
            if (label < first_label || label == no_label) continue;
            const std::array<float, 3>& colour = colours[static_cast<std::size_t>(label)];
            cv::Vec3b& pixel = drawn.at<cv::Vec3b>(row, column);
            for (int channel = 0; channel < 3; ++channel)
                pixel[channel] = cv::saturate_cast<uchar>(colour[static_cast<std::size_t>(channel)] + rest * pixel[channel]);
        }
    return drawn;
}

}  // namespace api
}  // namespace nerve
#endif
