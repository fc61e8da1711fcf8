// What a tokenizer.json says, of the two kinds that bundles hold.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "unicode.h"

namespace nerve {

constexpr int64_t NO_TOKEN = -1;

enum class Normalizer { NFC, LOWER_CASE, SPACES };

// How a normalised text is cut into pieces.
enum class Splitting {
    WORDS,             // runs of letters and of symbols
    CLIP,              // letters, single digits, symbols, and English endings such as 's
    CLIP_AND_MARKERS,  // the same, with <|startoftext|> and <|endoftext|> as pieces before that
    BYTES,             // not at all: each byte is a token
};

struct AddedToken {
    Text content;  // normalised where `normalized`
    int64_t id;
    bool special;
    bool normalized;  // looked for in the normalised text
};

// Tokens that are put together: the one of lower rank first.
struct Merge {
    uint32_t rank;
    int64_t merged;
};

struct TokenizerModel {
    std::vector<Normalizer> normalizers;
    Splitting splitting;
    std::map<std::string, int64_t> vocabulary;
    int64_t unknown_id = NO_TOKEN;
    std::vector<AddedToken> added_tokens;
    std::vector<int64_t> before, after;  // what is put around each prompt

    // Of byte pairs only.
    bool has_byte_pairs = false;
    std::array<int64_t, 256> byte_ids, last_byte_ids;  // NO_TOKEN for those that the vocabulary lacks
    std::unordered_map<uint64_t, Merge> merges;        // by `pair_key`

    int64_t id_of(const std::string& token) const;
    std::string token_of(int64_t id) const;
};

inline uint64_t pair_key(int64_t first, int64_t second) {
    return static_cast<uint64_t>(first) << 32 | static_cast<uint64_t>(second);
}

// A text on its way to the model, and which characters of the prompt each of its characters came from.
struct NormalizedText {
    Text text;
    std::vector<size_t> starts, ends;
};

// `normalizers` applied one after another; `start` is the place of `text` in the prompt.
NormalizedText normalized_text(const std::vector<Normalizer>& normalizers, TextView text, size_t start);

// The pieces of a text as (start, end).
std::vector<std::pair<size_t, size_t>> pieces_of(TextView text, Splitting splitting);

// The tokens of a piece by a model of byte pairs.
std::vector<int64_t> byte_pair_ids(const TokenizerModel& model, TextView piece);

// Read a tokenizer.json. Raises BundleError: it is none, or of another kind.
TokenizerModel load_tokenizer(const std::string& path);

}  // namespace nerve
