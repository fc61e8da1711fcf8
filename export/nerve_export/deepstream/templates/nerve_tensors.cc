#include "nerve_tensors.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

namespace nerve {
namespace {

constexpr int NO_CLASS = -1;

template <typename Label>
void copy_classes(const void* labels, size_t pixels, int* classes) {
    const Label* each = static_cast<const Label*>(labels);
    for (size_t pixel = 0; pixel < pixels; ++pixel)
        classes[pixel] = each[pixel] == std::numeric_limits<Label>::max() ? NO_CLASS : each[pixel];
}

}  // namespace

ConstantInputs::ConstantInputs(const std::string& folder) : folder_(folder) {
    std::error_code unreadable;
    for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
        if (entry.path().extension() != ".bin") continue;
        std::ifstream file(entry.path(), std::ios::binary);
        values_[entry.path().stem().string()].assign(std::istreambuf_iterator<char>(file), {});
    }
}

size_t ConstantInputs::bytes(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? 0 : found->second.size();
}

std::string ConstantInputs::fill(const std::string& name, void* to, size_t size) const {
    const size_t one = bytes(name);
    if (one == 0) return "input " + name + " has no file " + folder_ + "/" + name + ".bin; copy the whole folder again";
    if (size == 0 || size % one != 0)
        return "input " + name + " takes " + std::to_string(size) + " bytes, its file has " + std::to_string(one) +
               "; inputs and model_repository belong to one run of nerve-build deepstream";
    const std::vector<char>& values = values_.at(name);
    for (size_t done = 0; done < size; done += one) std::memcpy(static_cast<char*>(to) + done, values.data(), one);
    return {};
}

bool class_map(const void* labels, size_t label_bytes, size_t pixels, int* classes) {
    if (label_bytes == sizeof(uint8_t)) {
        copy_classes<uint8_t>(labels, pixels, classes);
    } else if (label_bytes == sizeof(uint16_t)) {
        copy_classes<uint16_t>(labels, pixels, classes);
    } else {
        return false;
    }
    return true;
}

}  // namespace nerve
