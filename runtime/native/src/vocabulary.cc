#include "vocabulary.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "error.h"

namespace nerve {
namespace {

constexpr float NORM_FLOOR = 1e-12f;
constexpr size_t ACCUMULATORS = 8, PAIRWISE_BLOCK = 128;

// The sum of squares in NumPy's order: eight sums side by side, and halves of what is longer than a block.
float sum_of_squares(const float* values, size_t count) {
    if (count > PAIRWISE_BLOCK) {
        const size_t half = count / 2 / ACCUMULATORS * ACCUMULATORS;
        return sum_of_squares(values, half) + sum_of_squares(values + half, count - half);
    }
    float sum = 0;
    size_t i = 0;
    if (count >= ACCUMULATORS) {
        float sums[ACCUMULATORS] = {};
        for (; i + ACCUMULATORS <= count; i += ACCUMULATORS) {
            for (size_t lane = 0; lane < ACCUMULATORS; ++lane) sums[lane] += values[i + lane] * values[i + lane];
        }
        sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    for (; i < count; ++i) sum += values[i] * values[i];
    return sum;
}

// Each word's sum of embeddings to its mean, of length 1.
void normalise(std::vector<float>& sums, size_t words, size_t width, size_t templates) {
    for (float& value : sums) value /= static_cast<float>(templates);
    if (!std::all_of(sums.begin(), sums.end(), [](float value) { return std::isfinite(value); })) {
        fail(NERVE_NUMERIC, {"the text graph gave embeddings that are not finite; rebuild the bundle in fp32"});
    }
    for (size_t word = 0; word < words; ++word) {
        float* row = sums.data() + word * width;
        const float length = std::max(std::sqrt(sum_of_squares(row, width)), NORM_FLOOR);
        for (size_t i = 0; i < width; ++i) row[i] /= length;
    }
}

std::string prompt_of(const std::string& word, const std::string& templ) {
    const size_t place = templ.find("{}");
    return place == templ.npos ? templ : templ.substr(0, place) + word + templ.substr(place + 2);
}

// Sums over the templates of each word, (words, width).
std::vector<float> embedded(const std::vector<std::string>& words, const std::vector<std::string>& templates,
                            const EncodePrompts& encode_prompts, size_t& width) {
    const size_t total = words.size() * templates.size();
    std::vector<float> sums;
    for (size_t start = 0; start < total; start += PROMPTS_PER_RUN) {
        std::vector<std::string> prompts;
        for (size_t i = start; i < std::min(start + PROMPTS_PER_RUN, total); ++i) {
            prompts.push_back(prompt_of(words[i / templates.size()], templates[i % templates.size()]));
        }
        const std::vector<float> rows = encode_prompts(prompts);
        if (start == 0) {
            width = rows.size() / prompts.size();
            sums.resize(words.size() * width);
        }
        if (rows.size() != prompts.size() * width) throw std::logic_error("the text graph gave rows of two widths");
        for (size_t i = 0; i < prompts.size(); ++i) {
            float* sum = sums.data() + (start + i) / templates.size() * width;
            for (size_t j = 0; j < width; ++j) sum[j] += rows[i * width + j];
        }
    }
    return sums;
}

}  // namespace

const std::vector<std::string>& chosen_templates(const VocabularyRecord& vocabulary) {
    return vocabulary.template_sets.at(vocabulary.default_template_set);
}

TextBank build_text_bank(const ClassList& class_list, const std::vector<std::string>& templates,
                         const EncodePrompts& encode_prompts) {
    std::vector<std::string> words;
    size_t longest = 0;
    for (const std::vector<std::string>& synonyms : class_list.synonyms) {
        words.insert(words.end(), synonyms.begin(), synonyms.end());
        longest = std::max(longest, synonyms.size());
    }
    size_t width = 0;
    TextBank bank;
    bank.text_embeddings = embedded(words, templates, encode_prompts, width);
    normalise(bank.text_embeddings, words.size(), width, templates.size());
    bank.rows = static_cast<int64_t>(words.size());
    bank.width = static_cast<int64_t>(width);
    int64_t start = 0;
    for (const std::vector<std::string>& synonyms : class_list.synonyms) {
        for (size_t i = 0; i < longest; ++i) {
            bank.class_rows.push_back(start + (i < synonyms.size() ? static_cast<int64_t>(i) : 0));
        }
        start += static_cast<int64_t>(synonyms.size());
    }
    bank.classes = static_cast<int64_t>(class_list.synonyms.size());
    bank.synonyms = static_cast<int64_t>(longest);
    bank.class_names = class_list.names();
    bank.has_background = class_list.has_background;
    return bank;
}

}  // namespace nerve
