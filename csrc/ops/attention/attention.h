// out[n, i, :] = sum over j of  exp(s[n, i, j]) v[n, j, :] / sum over j of exp(s[n, i, j])        s[n, i, j] = q[n, i, :] . k[n, j, :]
//
// Softmax attention, logits unscaled, block of queries by block: a block's weights stay in the second-level cache and are never stored
// as a whole. From the logits of a query the largest is subtracted first, so that nothing overflows; exp is that of attention_block.h.
//
// For the CPU only: on CUDA this place is the library's attention.
//
// A NaN among a query's logits makes its row NaN; one in v makes its column NaN. Weights below the smallest normal number are zero.
// The bits of a row of out depend on that query, its sample's keys and values, the type and the instruction set: not on n, the number of
// queries, threads or addresses. A logit is one chain of multiply-adds; weights and values are summed in pieces of kKeys keys.
// Callers guarantee shapes (the binding checks); nothing here allocates.
#pragma once

#include <cstdint>

#include "core/instructions.h"

namespace di {

struct AttentionParams {
  int64_t n, queries, keys;   // of one sample
  int64_t d, e;               // columns of q and k; of v
  int64_t out_stride;         // from a row of out to the next, of the same sample or not
};

template <class T> struct AttentionTensors {
  const T* q;   // [n, queries, d]
  const T* k;   // [n, keys, d]
  const T* v;   // [n, keys, e]
  T* out;       // [n, queries, e], rows out_stride apart
};

// Bytes of workspace that one thread needs.
template <class T> int64_t attention_workspace(const AttentionParams& params, Instructions instructions);

// workspace: `threads` times what attention_workspace says.
template <class T>
void attention_cpu(const AttentionTensors<T>& tensors, const AttentionParams& params, Instructions instructions, void* workspace,
                   int threads);

}  // namespace di
