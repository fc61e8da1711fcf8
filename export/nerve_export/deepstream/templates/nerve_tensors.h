// The part of the library that knows nothing of DeepStream: constant inputs from files, and labels to a class map.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace nerve {

// The inputs of the graph that are the same for every frame, from the files NAME.bin of a folder.
class ConstantInputs {
   public:
    // Reads every file; what cannot be read is missing later.
    explicit ConstantInputs(const std::string& folder);

    // Fills `size` bytes with the values of an input, once for each frame of a batch.
    // Returns what is wrong in one sentence, or nothing.
    std::string fill(const std::string& name, void* to, size_t size) const;

    // The bytes of an input for one frame, 0 where it has no file.
    size_t bytes(const std::string& name) const;

   private:
    std::string folder_;
    std::map<std::string, std::vector<char>> values_;
};

// The class of each pixel, -1 where there is none: labels have 1 or 2 bytes, and their greatest value means none.
// Returns whether labels of this size are known.
bool class_map(const void* labels, size_t label_bytes, size_t pixels, int* classes);

}  // namespace nerve
