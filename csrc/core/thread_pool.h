// A process-wide pool for the CPU back ends. torch brings its own OpenMP runtime and a second one next to it would fight for the
// cores, so kernels split their work here, over as many threads as the caller names (Python passes torch.get_num_threads()).
#pragma once

#include <cstdint>
#include <functional>

namespace di {

// Calls body(begin, end) on disjoint ranges that cover [0, count), from at most `threads` threads of which the caller is one.
// grain: the smallest range worth a hand-over. Returns when all ranges are done; the first exception of a body is rethrown.
// Several callers may be inside at once; a forked child starts with an empty pool.
void parallel_for(int64_t count, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace di
