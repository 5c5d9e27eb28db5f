// Uniform numbers per row: u[n, j] = the j-th 64 bits of the row's stream, in [0, 1) or below an integer.
//
// Host only: these are decisions (who is replaced, which neighbour), taken once per row and uploaded.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace di {

void uniform_cpu(const int64_t* index,    // [n]
                 const int64_t* repeat,   // [n]
                 double* out,             // [n, count], in [0, 1)
                 int64_t n, int64_t count, const RandomKey& key);

// Unbiased: the high word of bits * high, rejecting the low words that would make some values likelier
// (Lemire, "Fast random integer generation in an interval", ACM TOMACS 2019, algorithm 5).
void randint_cpu(const int64_t* index,    // [n]
                 const int64_t* repeat,   // [n]
                 const int64_t* high,     // [n], positive
                 int64_t* out,            // [n], in [0, high)
                 int64_t n, const RandomKey& key);

}  // namespace di
