// Which places of an axis a coarser place is the average of.
#pragma once

#include <vector>

namespace nerve {

struct Share {
    int place;     // on the finer axis
    float weight;  // those of one coarser place add up to about 1
};

// One axis that shrinks from `length` places to `coarse`.
struct AreaAxis {
    AreaAxis(int length, int coarse);

    int whole;  // places per coarse place where that is a whole number, else 0
    std::vector<Share> shares;
    std::vector<int> starts;  // shares of coarse place i are starts[i] to starts[i + 1] - 1
};

}  // namespace nerve
