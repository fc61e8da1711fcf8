// Prompts to token ids, with the bundle's own tokenizer.json, as nerve_runtime/vocabulary/tokenizer.py does.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "class_list.h"
#include "manifest.h"

namespace nerve {

struct TokenizerModel;

// Pads and cuts to the length that the text graph reads.
class PromptTokenizer {
   public:
    // `path`: tokenizer.json, already verified. Raises BundleError: it is none, lacks the end or unknown token that the
    // manifest names, or is of a kind other than known words and CLIP's byte pairs.
    PromptTokenizer(const std::string& path, const VocabularyRecord& vocabulary);
    ~PromptTokenizer();

    // Token ids of n prompts, (n, context_length), padded with the end token.
    // Raises UsageError: a prompt holds a special token such as <|endoftext|>, a word that a tokenizer of known words does
    // not know, or is too long and `strict`. BundleError: the tokenizer does not end a prompt with the end token.
    // `templates`: what the prompts were made of, with {} where a word was put, so that an error can name that word.
    std::vector<int64_t> encode(const std::vector<std::string>& prompts, bool strict, const Warn& warn,
                                const std::vector<std::string>& templates) const;

   private:
    std::vector<int64_t> encode_one(const std::string& prompt, bool strict, const Warn& warn,
                                    const std::vector<std::string>& templates) const;

    std::unique_ptr<const TokenizerModel> model_;
    size_t context_length_;
    int64_t end_id_, unknown_id_;  // unknown_id_: -1 for none
};

}  // namespace nerve
