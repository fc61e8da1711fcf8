#include "sha256.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__) && defined(__GNUC__)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace nerve {
namespace {

constexpr size_t BLOCK_BYTES = 64;
constexpr size_t CHUNK_BYTES = 1 << 18;

// The first 32 bits of the fractions of the cube roots of the first 64 primes.
alignas(16) const uint32_t ROUND_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using AddBlocks = void (*)(uint32_t* state, const uint8_t* blocks, size_t count);

uint32_t rotated(uint32_t x, int by) { return x >> by | x << (32 - by); }

void add_blocks_plainly(uint32_t* state, const uint8_t* blocks, size_t count) {
    for (; count > 0; --count, blocks += BLOCK_BYTES) {
        uint32_t w[64];
        for (int t = 0; t < 16; ++t) {
            w[t] = uint32_t{blocks[4 * t]} << 24 | uint32_t{blocks[4 * t + 1]} << 16 | uint32_t{blocks[4 * t + 2]} << 8 |
                   blocks[4 * t + 3];
        }
        for (int t = 16; t < 64; ++t) {
            const uint32_t s0 = rotated(w[t - 15], 7) ^ rotated(w[t - 15], 18) ^ w[t - 15] >> 3;
            const uint32_t s1 = rotated(w[t - 2], 17) ^ rotated(w[t - 2], 19) ^ w[t - 2] >> 10;
            w[t] = w[t - 16] + s0 + w[t - 7] + s1;
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int t = 0; t < 64; ++t) {
            const uint32_t sum1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
            const uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + ROUND_CONSTANTS[t] + w[t];
            const uint32_t sum0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
            const uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
        }
        const uint32_t added[8] = {a, b, c, d, e, f, g, h};
        for (int i = 0; i < 8; ++i) state[i] += added[i];
    }
}

#if defined(__x86_64__) && defined(__GNUC__)

__attribute__((target("sha,sse4.1"))) void add_blocks_with_instructions(uint32_t* state, const uint8_t* blocks, size_t count) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const auto lanes = [](uint32_t high, uint32_t b, uint32_t c, uint32_t low) {
        return _mm_set_epi32(static_cast<int>(high), static_cast<int>(b), static_cast<int>(c), static_cast<int>(low));
    };
    __m128i abef = lanes(state[0], state[1], state[4], state[5]), cdgh = lanes(state[2], state[3], state[6], state[7]);
    for (; count > 0; --count, blocks += BLOCK_BYTES) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int t = 0; t < 16; ++t) {
            __m128i& oldest = w[t & 3];
            const __m128i &second = w[(t + 1) & 3], &third = w[(t + 2) & 3], &newest = w[(t + 3) & 3];
            if (t < 4) {
                oldest = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks) + t), big_endian);
            } else {
                const __m128i partial = _mm_add_epi32(_mm_sha256msg1_epu32(oldest, second), _mm_alignr_epi8(newest, third, 4));
                oldest = _mm_sha256msg2_epu32(partial, newest);
            }
            const __m128i wk = _mm_add_epi32(oldest, _mm_load_si128(reinterpret_cast<const __m128i*>(ROUND_CONSTANTS) + t));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    uint32_t feba[4], hgdc[4];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(feba), abef);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(hgdc), cdgh);
    const uint32_t after[8] = {feba[3], feba[2], hgdc[3], hgdc[2], feba[1], feba[0], hgdc[1], hgdc[0]};
    std::copy(after, after + 8, state);
}

bool has_instructions() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has_sse41 = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
    return has_sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

#elif defined(__aarch64__) && defined(__linux__) && defined(__GNUC__)

__attribute__((target("+crypto"))) void add_blocks_with_instructions(uint32_t* state, const uint8_t* blocks, size_t count) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; count > 0; --count, blocks += BLOCK_BYTES) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[4];
        for (int t = 0; t < 16; ++t) {
            uint32x4_t& oldest = w[t & 3];
            if (t < 4) {
                oldest = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * t)));
            } else {
                oldest = vsha256su1q_u32(vsha256su0q_u32(oldest, w[(t + 1) & 3]), w[(t + 2) & 3], w[(t + 3) & 3]);
            }
            const uint32x4_t wk = vaddq_u32(oldest, vld1q_u32(ROUND_CONSTANTS + 4 * t)), abcd_then = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, abcd_then, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before), efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

bool has_instructions() { return getauxval(AT_HWCAP) & HWCAP_SHA2; }

#else

constexpr AddBlocks add_blocks_with_instructions = add_blocks_plainly;

bool has_instructions() { return false; }

#endif

void add_blocks(uint32_t* state, const uint8_t* blocks, size_t count) {
    static const AddBlocks chosen = has_instructions() ? add_blocks_with_instructions : add_blocks_plainly;
    chosen(state, blocks, count);
}

}  // namespace

void Sha256::update(const void* bytes, size_t count) {
    const auto* next = static_cast<const uint8_t*>(bytes);
    total_bytes_ += count;
    if (filled_ > 0) {
        const size_t taken = std::min(count, BLOCK_BYTES - filled_);
        std::copy_n(next, taken, block_ + filled_);
        filled_ += taken, next += taken, count -= taken;
        if (filled_ < BLOCK_BYTES) return;
        add_blocks(state_, block_, 1);
        filled_ = 0;
    }
    const size_t whole = count / BLOCK_BYTES;
    if (whole > 0) add_blocks(state_, next, whole);
    filled_ = count % BLOCK_BYTES;
    std::copy_n(next + whole * BLOCK_BYTES, filled_, block_);
}

std::string Sha256::hex() {
    const uint64_t bits = total_bytes_ * 8;
    uint8_t ending[2 * BLOCK_BYTES] = {0x80};
    const size_t padding = (filled_ < 56 ? 56 : 120) - filled_;
    for (int i = 0; i < 8; ++i) ending[padding + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    update(ending, padding + 8);
    std::string digits;
    for (const uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 15];
    }
    return digits;
}

std::string sha256_hex(const void* bytes, size_t count) {
    Sha256 hash;
    hash.update(bytes, count);
    return hash.hex();
}

std::string sha256_of_file(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) throw std::system_error(errno, std::generic_category());
    Sha256 hash;
    std::vector<uint8_t> chunk(CHUNK_BYTES);
    while (const size_t count = std::fread(chunk.data(), 1, chunk.size(), file.get())) hash.update(chunk.data(), count);
    if (std::ferror(file.get())) throw std::system_error(errno, std::generic_category());
    return hash.hex();
}

}  // namespace nerve
