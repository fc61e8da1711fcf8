#include "area_spans.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nerve {

namespace {

constexpr double NEGLIGIBLE = 1e-3;  // a smaller part of a place is left out

}  // namespace

AreaAxis::AreaAxis(int length, int coarse) {
    // OpenCV divides twice; the rounding errors decide between its two ways of averaging, e.g. from 49 places to 1.
    const double scale = 1.0 / (double(coarse) / length);
    const double nearest = std::nearbyint(scale);
    whole = std::fabs(scale - nearest) < std::numeric_limits<double>::epsilon() ? int(nearest) : 0;
    starts.reserve(size_t(coarse) + 1);
    for (int at = 0; at < coarse; ++at) {
        starts.push_back(int(shares.size()));
        const double begin = at * scale, end = begin + scale, extent = std::min(scale, length - begin);
        const int last = std::min(int(std::floor(end)), length - 1);
        const int first = std::min(int(std::ceil(begin)), last);
        if (first - begin > NEGLIGIBLE) shares.push_back({first - 1, float((first - begin) / extent)});
        for (int place = first; place < last; ++place) shares.push_back({place, float(1.0 / extent)});
        if (end - last > NEGLIGIBLE) shares.push_back({last, float(std::min(std::min(end - last, 1.0), extent) / extent)});
    }
    starts.push_back(int(shares.size()));
}

}  // namespace nerve
