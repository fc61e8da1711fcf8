#include "close_matches.h"

#include <algorithm>
#include <vector>

namespace nerve {
namespace {

constexpr double CUTOFF = 0.6;
constexpr size_t LONG_WORD = 200;  // from this length on, letters that are more than 1 % of a word start no match

struct Block {
    size_t a, b, size;
};

struct Range {
    size_t a, a_end, b, b_end;
};

// Compares other words with one.
class Matcher {
   public:
    explicit Matcher(TextView word) : word_(word), starts_match_(word.size(), 1) {
        if (word.size() < LONG_WORD) return;
        for (size_t i = 0; i < word.size(); ++i)
            starts_match_[i] = static_cast<size_t>(std::count(word.begin(), word.end(), word[i])) <= word.size() / 100 + 1;
    }

    // Twice the letters in common over all letters, 1 for two empty words.
    double ratio(TextView other) const {
        size_t matched = 0;
        std::vector<Range> open{{0, other.size(), 0, word_.size()}};
        while (!open.empty()) {
            const Range range = open.back();
            open.pop_back();
            const Block block = longest(other, range);
            if (block.size == 0) continue;
            matched += block.size;
            open.push_back({range.a, block.a, range.b, block.b});
            open.push_back({block.a + block.size, range.a_end, block.b + block.size, range.b_end});
        }
        return of_letters(matched, other);
    }

    // No ratio is above this.
    double most_ratio(TextView other) const { return of_letters(std::min(word_.size(), other.size()), other); }

   private:
    double of_letters(size_t matched, TextView other) const {
        const size_t letters = word_.size() + other.size();
        return letters == 0 ? 1 : 2.0 * static_cast<double>(matched) / static_cast<double>(letters);
    }

    // The longest run of letters in common; of several, the one that starts first.
    Block longest(TextView other, const Range& range) const {
        Block best{range.a, range.b, 0};
        std::vector<size_t> lengths(word_.size() + 1), longer(word_.size() + 1);  // of the runs that end before a place
        for (size_t a = range.a; a < range.a_end; ++a) {
            for (size_t b = range.b; b < range.b_end; ++b) {
                longer[b + 1] = other[a] == word_[b] && starts_match_[b] ? lengths[b] + 1 : 0;
                if (longer[b + 1] > best.size) best = {a + 1 - longer[b + 1], b + 1 - longer[b + 1], longer[b + 1]};
            }
            lengths.swap(longer);
        }
        while (best.a > range.a && best.b > range.b && other[best.a - 1] == word_[best.b - 1]) {
            --best.a, --best.b, ++best.size;
        }
        while (best.a + best.size < range.a_end && best.b + best.size < range.b_end &&
               other[best.a + best.size] == word_[best.b + best.size]) {
            ++best.size;
        }
        return best;
    }

    TextView word_;
    std::vector<char> starts_match_;  // by the letters of `word_`
};

}  // namespace

std::optional<Text> close_match(TextView word, const std::vector<Text>& known) {
    const Matcher matcher(word);
    std::optional<Text> best;
    double best_ratio = CUTOFF;
    for (const Text& other : known) {
        if (matcher.most_ratio(other) < best_ratio) continue;
        const double ratio = matcher.ratio(other);
        if (ratio > best_ratio || (ratio == best_ratio && (!best || other > *best))) {
            best = other;
            best_ratio = ratio;
        }
    }
    return best;
}

}  // namespace nerve
