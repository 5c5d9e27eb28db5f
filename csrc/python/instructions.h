// Instruction sets by their names in Python, and what the kernels that have one of each check alike.
#pragma once

#include "core/instructions.h"
#include "tensor_ref.h"

namespace di {

inline const char* const kInstructionNames[kInstructionSets] = {"generic", "avx2", "avx512", "avx512_bf16"};

// There are kernels of bfloat16 for AVX-512, with AVX512_BF16 and without, and generic ones to test them by; none of other types for
// AVX512_BF16.
inline bool has_kernels(Instructions instructions, DType dtype) {
  if (dtype == DType::bfloat16) return instructions != Instructions::avx2;
  return instructions != Instructions::avx512_bf16;
}

inline Instructions instructions_of(const std::string& name, DType dtype) {
  std::string have;
  for (int i = 0; i < kInstructionSets; ++i) {
    if (!processor_has(Instructions(i)) || !has_kernels(Instructions(i), dtype)) continue;
    if (name == kInstructionNames[i]) return Instructions(i);
    have += (have.empty() ? "" : ", ") + std::string(kInstructionNames[i]);
  }
  fail("instructions", "be one of this processor's (" + have + ") in " + name_of(dtype), name);
}

template <class F> auto dispatch_float_or_double(const std::string& name, DType dtype, F f) {
  if (dtype == DType::float32) return f(float{});
  if (dtype == DType::float64) return f(double{});
  fail(name, "be float32 or float64", name_of(dtype));
}

// Of the elements of a contiguous tensor.
inline int64_t bytes_of(const TensorRef& t) {
  int64_t count = t.dtype == DType::float64 ? 8 : t.dtype == DType::float32 ? 4 : t.dtype == DType::bfloat16 ? 2 : 1;
  for (int64_t size : t.shape) count *= size;
  return count;
}

inline void check_apart(const std::string& name, const TensorRef& t, const std::string& other_name, const TensorRef& other) {
  if (other.address < t.address + bytes_of(t) && t.address < other.address + bytes_of(other))
    fail(name, "not share memory with " + other_name, "an overlap");
}

inline void check_on_cpu(const std::string& name, const TensorRef& t) {
  if (t.device >= 0) fail(name, "be on cpu", device_name(t.device));
}

// For how many threads the workspace is enough, of which each needs so many bytes.
inline int64_t check_workspace(const TensorRef& workspace, int64_t bytes) {
  check_rank("workspace", workspace, 1);
  check_dtype("workspace", workspace, DType::uint8);
  check_on_cpu("workspace", workspace);
  check_contiguous("workspace", workspace);
  check_aligned("workspace", workspace, sizeof(double));
  if (workspace.size(0) < bytes) fail("workspace", "have at least " + std::to_string(bytes) + " bytes", std::to_string(workspace.size(0)));
  return workspace.size(0) / bytes;
}

}  // namespace di
