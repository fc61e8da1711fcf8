// Rounding that gives the same number on every processor.
#pragma once

namespace nerve {

// The nearest whole number, halves to the even one; |number| at most 2^22, and not NaN.
// Adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded; a call of the library's would cost ten times more.
inline float rounded_half_even(float number) {
    constexpr float WHOLE_NUMBERS_ONLY = 12582912.0F;
    return (number + WHOLE_NUMBERS_ONLY) - WHOLE_NUMBERS_ONLY;
}

}  // namespace nerve
