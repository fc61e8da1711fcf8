// Class names to text embeddings, and vocabulary files, which are specified line by line in docs/bundle.md.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "class_list.h"
#include "manifest.h"

namespace nerve {

constexpr size_t PROMPTS_PER_RUN = 256;

// A class list as the graphs read it.
struct TextBank {
    std::vector<float> text_embeddings;  // (rows, width), one row a word, each of length 1
    int64_t rows, width;
    std::vector<int64_t> class_rows;  // (classes, synonyms), the rows of each class, padded by repeating its first
    int64_t classes, synonyms;
    std::vector<std::string> class_names;  // in the order of the labels
    bool has_background;                   // class 0 is "background"
};

// n prompts, at most PROMPTS_PER_RUN, to embeddings (n, d), each of length 1.
using EncodePrompts = std::function<std::vector<float>(const std::vector<std::string>&)>;

// The prompt templates of the bundle's default set.
const std::vector<std::string>& chosen_templates(const VocabularyRecord& vocabulary);

// Embed a class list: one row a word, the mean over the templates, of length 1; the last bit is NumPy's.
// Raises NumericError for embeddings that are not finite, and what `encode_prompts` raises.
TextBank build_text_bank(const ClassList& class_list, const std::vector<std::string>& templates,
                         const EncodePrompts& encode_prompts);

// Read a file of nerve-vocab for a bundle's text graph (see text_sha256 of Python) and width of embeddings.
// Raises UsageError for a file that is missing, too large, damaged, no vocabulary, or of another text graph.
TextBank load_vocabulary(const std::string& path, const std::string& text_sha256, int text_width);

}  // namespace nerve
