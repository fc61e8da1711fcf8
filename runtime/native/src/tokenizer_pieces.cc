// From a prompt to the pieces that a model knows, and byte pairs within these.
#include <algorithm>

#include "tokenizer_model.h"

namespace nerve {
namespace {

using Piece = std::pair<size_t, size_t>;

void compose(NormalizedText& given) {
    if (nfc(given.text) == given.text) return;
    NormalizedText composed;
    // Nothing composes with an ASCII character before it, so texts fall apart there; all within a part comes from all of it.
    for (size_t start = 0; start < given.text.size();) {
        const auto is_ascii = [](char32_t c) { return c < 0x80; };
        const auto found = std::find_if(given.text.begin() + static_cast<std::ptrdiff_t>(start) + 1, given.text.end(), is_ascii);
        const auto end = static_cast<size_t>(found - given.text.begin());
        composed.text += nfc(TextView(given.text).substr(start, end - start));
        composed.starts.resize(composed.text.size(), given.starts[start]);
        composed.ends.resize(composed.text.size(), given.ends[end - 1]);
        start = end;
    }
    given = std::move(composed);
}

void make_lower_case(NormalizedText& given) {
    NormalizedText lowered;
    for (size_t i = 0; i < given.text.size(); ++i) {
        lowered.text += lower_character(given.text[i]);
        lowered.starts.resize(lowered.text.size(), given.starts[i]);
        lowered.ends.resize(lowered.text.size(), given.ends[i]);
    }
    given = std::move(lowered);
}

void join_spaces(NormalizedText& given) {
    NormalizedText joined;
    for (size_t i = 0; i < given.text.size(); ++i) {
        const bool is_space = is_white_space(given.text[i]);
        if (is_space && i > 0 && is_white_space(given.text[i - 1])) {
            joined.ends.back() = given.ends[i];
            continue;
        }
        joined.text += is_space ? U' ' : given.text[i];
        joined.starts.push_back(given.starts[i]);
        joined.ends.push_back(given.ends[i]);
    }
    given = std::move(joined);
}

size_t run_end(TextView text, size_t start, bool (*belongs)(char32_t)) {
    while (start < text.size() && belongs(text[start])) ++start;
    return start;
}

bool is_symbol(char32_t c) { return !is_white_space(c) && !is_letter(c) && !is_number(c); }

size_t word_end(TextView text, size_t start) {
    if (is_word(text[start])) return run_end(text, start, is_word);
    return run_end(text, start, [](char32_t c) { return !is_word(c) && !is_white_space(c); });
}

// 's and its like are pieces wherever they stand.
size_t clip_end(TextView text, size_t start) {
    for (const TextView ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
        if (text.substr(start, ending.size()) == ending) return start + ending.size();
    }
    if (is_letter(text[start])) return run_end(text, start, is_letter);
    return is_number(text[start]) ? start + 1 : run_end(text, start, is_symbol);
}

// The parts of <|endoftext|>: symbols, letters, symbols.
void append_marker(std::vector<Piece>& pieces, size_t start, size_t length) {
    pieces.insert(pieces.end(), {{start, start + 2}, {start + 2, start + length - 2}, {start + length - 2, start + length}});
}

bool append_marker_at(std::vector<Piece>& pieces, TextView text, size_t start) {
    for (const TextView marker : {TextView(U"<|startoftext|>"), TextView(U"<|endoftext|>")}) {
        if (text.substr(start, marker.size()) != marker) continue;
        append_marker(pieces, start, marker.size());
        return true;
    }
    return false;
}

const Merge* merge_of(const TokenizerModel& model, int64_t first, int64_t second) {
    const auto found = model.merges.find(pair_key(first, second));
    return found == model.merges.end() ? nullptr : &found->second;
}

// Put pairs together, the lowest rank first, the leftmost of equals, until none is known.
void merge_all(const TokenizerModel& model, std::vector<int64_t>& ids) {
    std::vector<const Merge*> merges;  // of each id with the next
    for (size_t i = 0; i + 1 < ids.size(); ++i) merges.push_back(merge_of(model, ids[i], ids[i + 1]));
    while (true) {
        size_t best = merges.size();
        for (size_t i = 0; i < merges.size(); ++i)
            if (merges[i] && (best == merges.size() || merges[i]->rank < merges[best]->rank)) best = i;
        if (best == merges.size()) return;
        const auto at = static_cast<std::ptrdiff_t>(best);
        ids[best] = merges[best]->merged;
        ids.erase(ids.begin() + at + 1);
        merges.erase(merges.begin() + at);
        if (best > 0) merges[best - 1] = merge_of(model, ids[best - 1], ids[best]);
        if (best < merges.size()) merges[best] = merge_of(model, ids[best], ids[best + 1]);
    }
}

}  // namespace

NormalizedText normalized_text(const std::vector<Normalizer>& normalizers, TextView text, size_t start) {
    NormalizedText given{Text(text), {}, {}};
    for (size_t i = 0; i < text.size(); ++i) {
        given.starts.push_back(start + i);
        given.ends.push_back(start + i + 1);
    }
    for (const Normalizer normalizer : normalizers) {
        if (normalizer == Normalizer::NFC) compose(given);
        if (normalizer == Normalizer::LOWER_CASE) make_lower_case(given);
        if (normalizer == Normalizer::SPACES) join_spaces(given);
    }
    return given;
}

std::vector<Piece> pieces_of(TextView text, Splitting splitting) {
    std::vector<Piece> pieces;
    if (splitting == Splitting::BYTES && !text.empty()) pieces.emplace_back(0, text.size());
    for (size_t at = 0; at < text.size() && splitting != Splitting::BYTES;) {
        if (is_white_space(text[at])) {
            ++at;
            continue;
        }
        if (splitting == Splitting::CLIP_AND_MARKERS && append_marker_at(pieces, text, at)) {
            at = pieces.back().second;
            continue;
        }
        const size_t end = splitting == Splitting::WORDS ? word_end(text, at) : clip_end(text, at);
        pieces.emplace_back(at, end);
        at = end;
    }
    return pieces;
}

std::vector<int64_t> byte_pair_ids(const TokenizerModel& model, TextView piece) {
    const std::string bytes = encode_utf8(piece);
    std::vector<int64_t> ids;
    for (size_t i = 0; i < bytes.size(); ++i) {
        const auto& known = i + 1 == bytes.size() ? model.last_byte_ids : model.byte_ids;
        int64_t id = known[static_cast<uint8_t>(bytes[i])];
        if (id == NO_TOKEN) id = model.unknown_id;
        if (id != NO_TOKEN) ids.push_back(id);
    }
    merge_all(model, ids);
    return ids;
}

}  // namespace nerve
