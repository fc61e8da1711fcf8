// Rounding that gives the same number on every processor.
#pragma once

namespace nerve {

// The nearest whole number, halves to the even one; |number| at most 2^22, and not NaN.
// Adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded; a call of the library's would cost ten times more.
inline float rounded_half_even(float number) {
    constexpr float WHOLE_NUMBERS_ONLY = 12582912.0F;
    return (number + WHOLE_NUMBERS_ONLY) - WHOLE_NUMBERS_ONLY;
}

// The greatest whole number not above `number`, which is within 2^30; without a call of the library's.
inline int whole_below(float number) {
    const int towards_zero = int(number);
    return towards_zero - (float(towards_zero) > number);
}

}  // namespace nerve
