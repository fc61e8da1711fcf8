#include "readout.h"

namespace nerve {

namespace {

constexpr int BLOCK_TOKENS_BILINEAR = 2, BLOCK_TOKENS_GUIDED = 4;  // side of the block of tokens of which a pixel is a mix
constexpr size_t LEADERS = 3;                                      // the mean of the first two, and of these, is compared with
constexpr float ROUNDING = 1e-6F;  // more than the graphs' float32 sums of 9 products that are at most 1 can be off

using Plane = std::vector<float>;

// The blocks of a grid; an axis shorter than a block's side is one block.
struct Blocks {
    Blocks(std::array<int, 2> grid_hw, int side)
        : width(size_t(grid_hw[1])),
          tokens(size_t(grid_hw[0]) * width),
          block_height(size_t(std::min(side, grid_hw[0]))),
          block_width(size_t(std::min(side, grid_hw[1]))),
          rows(size_t(grid_hw[0]) - block_height + 1),
          columns(width - block_width + 1) {}

    size_t count() const { return rows * columns; }
    size_t block_tokens() const { return block_height * block_width; }
    // The first token of a block.
    size_t first(size_t block) const { return block / columns * width + block % columns; }
    // A token of a block, relative to its first, in row-major order.
    size_t step(size_t token) const { return token / block_width * width + token % block_width; }

    size_t width, tokens, block_height, block_width, rows, columns;
};

// For every block what `pick` chooses of a class's scores in it; `narrow` and `picked` are room of the right size.
template <typename Pick>
void pick_over_blocks(const float* scores, const Blocks& blocks, Pick pick, Plane& narrow, Plane& picked) {
    const size_t columns = blocks.columns, height = blocks.rows + blocks.block_height - 1;
    for (size_t y = 0; y < height; ++y) {
        const float* row = scores + y * blocks.width;
        float* out = narrow.data() + y * columns;
        for (size_t x = 0; x < columns; ++x) out[x] = row[x];
        for (size_t step = 1; step < blocks.block_width; ++step)
            for (size_t x = 0; x < columns; ++x) out[x] = pick(out[x], row[x + step]);
    }
    for (size_t y = 0; y < blocks.rows; ++y) {
        const float* row = narrow.data() + y * columns;
        float* out = picked.data() + y * columns;
        for (size_t x = 0; x < columns; ++x) out[x] = row[x];
        for (size_t step = 1; step < blocks.block_height; ++step)
            for (size_t x = 0; x < columns; ++x) out[x] = pick(out[x], row[step * columns + x]);
    }
}

// The quick bound: classes whose greatest score in some block reaches the best of all classes' least scores in it.
std::vector<int> within_bounds(const float* label_scores, int classes, const Blocks& blocks) {
    const auto less = [](float a, float b) { return a < b ? a : b; };
    const auto more = [](float a, float b) { return a > b ? a : b; };
    Plane narrow((blocks.rows + blocks.block_height - 1) * blocks.columns), picked(blocks.count()), best(blocks.count());
    for (int label = 0; label < classes; ++label) {
        pick_over_blocks(label_scores + size_t(label) * blocks.tokens, blocks, less, narrow, picked);
        for (size_t block = 0; block < best.size(); ++block)
            best[block] = label ? more(best[block], picked[block]) : picked[block];
    }
    for (float& least : best) least -= ROUNDING;
    std::vector<int> labels;
    for (int label = 0; label < classes; ++label) {
        pick_over_blocks(label_scores + size_t(label) * blocks.tokens, blocks, more, narrow, picked);
        bool reaches = false;
        for (size_t block = 0; block < best.size() && !reaches; ++block) reaches = picked[block] >= best[block];
        if (reaches) labels.push_back(label);
    }
    return labels;
}

// The classes that lead in a block by the mean of its scores, best first; of equals the earlier one.
struct Leading {
    size_t count = 0;
    std::array<const float*, LEADERS> scores{};
    std::array<float, LEADERS> means{};

    void add(const float* class_scores, float mean) {
        size_t at = count;
        while (at > 0 && mean > means[at - 1]) --at;
        if (at == LEADERS) return;
        count = std::min(count + 1, LEADERS);
        for (size_t i = count - 1; i > at; --i) {
            scores[i] = scores[i - 1];
            means[i] = means[i - 1];
        }
        scores[at] = class_scores;
        means[at] = mean;
    }
};

std::vector<Leading> leading_classes(const std::vector<const float*>& maps, const Blocks& blocks) {
    std::vector<Leading> leading(blocks.count());
    Plane sums(blocks.count());
    for (const float* map : maps) {
        std::fill(sums.begin(), sums.end(), 0.0F);
        for (size_t token = 0; token < blocks.block_tokens(); ++token) {
            const float* seen = map + blocks.step(token);
            for (size_t y = 0; y < blocks.rows; ++y)
                for (size_t x = 0; x < blocks.columns; ++x) sums[y * blocks.columns + x] += seen[y * blocks.width + x];
        }
        for (size_t block = 0; block < sums.size(); ++block) leading[block].add(map, sums[block] / float(blocks.block_tokens()));
    }
    return leading;
}

// The least scores at the tokens of a block that are not below the mean of the first `leaders` classes.
void set_least(const Leading& leading, size_t leaders, const Blocks& blocks, size_t block, float* least) {
    const size_t first = blocks.first(block), count = std::min(leaders, leading.count);
    for (size_t token = 0; token < blocks.block_tokens(); ++token) {
        float sum = 0;
        for (size_t i = 0; i < count; ++i) sum += leading.scores[i][first + blocks.step(token)];
        least[token] = sum / float(count) - ROUNDING;
    }
}

bool reaches(const float* map, const float* least, const Blocks& blocks, size_t first) {
    for (size_t y = 0; y < blocks.block_height; ++y)
        for (size_t x = 0; x < blocks.block_width; ++x)
            if (map[first + y * blocks.width + x] >= *least++) return true;
    return false;
}

// Which classes are not below the mean of the leading 2, nor of the leading 3, throughout every block.
std::vector<char> undominated(const std::vector<const float*>& maps, const Blocks& blocks) {
    const std::vector<Leading> leading = leading_classes(maps, blocks);
    std::vector<char> possible(maps.size(), false);
    constexpr size_t MOST_TOKENS = size_t(BLOCK_TOKENS_GUIDED) * BLOCK_TOKENS_GUIDED;
    float of_two[MOST_TOKENS], of_three[MOST_TOKENS];
    for (size_t block = 0; block < leading.size(); ++block) {
        set_least(leading[block], 2, blocks, block, of_two);
        set_least(leading[block], 3, blocks, block, of_three);
        for (size_t i = 0; i < maps.size(); ++i) {
            if (possible[i]) continue;
            const size_t first = blocks.first(block);
            possible[i] = reaches(maps[i], of_two, blocks, first) && reaches(maps[i], of_three, blocks, first);
        }
    }
    return possible;
}

}  // namespace

std::vector<int> possible_winners(const float* label_scores, int classes, std::array<int, 2> grid_hw, const std::string& readout,
                                  bool keep_first) {
    const Blocks blocks(grid_hw, readout == "guided" ? BLOCK_TOKENS_GUIDED : BLOCK_TOKENS_BILINEAR);
    const std::vector<int> labels = within_bounds(label_scores, classes, blocks);
    std::vector<const float*> maps;
    for (const int label : labels) maps.push_back(label_scores + size_t(label) * blocks.tokens);
    const std::vector<char> possible = undominated(maps, blocks);
    std::vector<int> winners;
    if (keep_first && !(!labels.empty() && labels[0] == 0 && possible[0])) winners.push_back(0);
    for (size_t i = 0; i < labels.size(); ++i)
        if (possible[i]) winners.push_back(labels[i]);
    return winners;
}

std::array<int, 2> readout_size_hw(int classes, std::array<int, 2> size_hw, int limit_px) {
    int height = size_hw[0], width = size_hw[1];
    const int longest = limit_px > 0 ? limit_px : std::max(height, width);
    const int64_t most_pixels = READOUT_ELEMENTS_LIMIT / std::max(1, classes);
    while ((int64_t(height) * width > most_pixels || std::max(height, width) > longest) && std::max(height, width) > 1) {
        height = std::max(1, height / 2);
        width = std::max(1, width / 2);
    }
    return {height, width};
}

std::vector<int> nearest_places(int length, int enlarged) {
    const double scale = 1.0 / (double(enlarged) / length);
    std::vector<int> places;
    places.reserve(size_t(enlarged));
    for (int at = 0; at < enlarged; ++at) places.push_back(std::min(int(std::floor(at * scale)), length - 1));
    return places;
}

}  // namespace nerve
