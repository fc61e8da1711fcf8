// Runs the cases of the parity set through nerve.hpp and compares all labels: parity ONNXRUNTIME BUNDLE CASES
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "nerve/nerve.hpp"

namespace {

struct Picture {
    int height = 0, width = 0;
    std::vector<std::uint8_t> bytes;
};

// A binary PPM or PGM picture of 8 bits.
Picture read_picture(const std::string& path, int channels) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int most = 0;
    Picture picture;
    file >> magic >> picture.width >> picture.height >> most;
    file.get();
    picture.bytes.resize(static_cast<std::size_t>(picture.height) * static_cast<std::size_t>(picture.width) *
                         static_cast<std::size_t>(channels));
    file.read(reinterpret_cast<char*>(picture.bytes.data()), static_cast<std::streamsize>(picture.bytes.size()));
    if (!file) throw std::runtime_error(path + " cannot be read");
    return picture;
}

std::vector<float> read_flow(const std::string& path, const nerve_info& info) {
    std::vector<float> flow(static_cast<std::size_t>(info.motion_height) * static_cast<std::size_t>(info.motion_width) * 2);
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(flow.data()), static_cast<std::streamsize>(flow.size() * sizeof(float)));
    if (!file) throw std::runtime_error(path + " cannot be read");
    return flow;
}

nerve::Params case_params(std::istream& words, const char* onnxruntime) {
    nerve::Params params;
    std::string name, longest;  // iostreams do not read "inf"
    params.onnxruntime = onnxruntime;
    params.threads = 1;
    words >> name >> params.keyframe_every >> longest >> params.between >> params.scores_every >> params.smoothing >>
        params.change >> params.cut;
    params.longest_s = std::stod(longest);
    return params;
}

void check_frame(nerve::Segmenter& segmenter, std::istream& words, const std::string& folder) {
    std::string picture_name, flow_name, labels_name;
    double time_s = 0;
    words >> picture_name >> flow_name >> labels_name >> time_s;
    const Picture picture = read_picture(folder + picture_name, 3), expected = read_picture(folder + labels_name, 1);
    std::vector<float> flow;
    if (flow_name != "-") flow = read_flow(folder + flow_name, segmenter.info());
    nerve::Frame frame(picture.bytes.data(), picture.height, picture.width);
    frame.time_s = time_s;
    frame.flow = flow.empty() ? nullptr : flow.data();
    if (segmenter.segment(frame).labels8 != expected.bytes) throw std::runtime_error("other labels than " + labels_name);
}

int run(const char* onnxruntime, const char* bundle, const std::string& cases) {
    const std::string folder = cases.substr(0, cases.rfind('/') + 1);
    std::unique_ptr<nerve::Segmenter> segmenter;
    std::ifstream file(cases);
    int case_count = 0, frame_count = 0;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string kind;
        words >> kind;
        if (kind == "case") {
            segmenter = std::make_unique<nerve::Segmenter>(bundle, case_params(words, onnxruntime));
            ++case_count;
        } else if (kind == "vocabulary") {
            std::string name;
            words >> name;
            segmenter->set_vocabulary(folder + name);
        } else {
            check_frame(*segmenter, words, folder);
            ++frame_count;
        }
    }
    std::printf("%d cases, %d frames, all labels equal\n", case_count, frame_count);
    return 0;
}

}  // namespace

int main(int, char** words) {
    try {
        return run(words[1], words[2], words[3]);
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
