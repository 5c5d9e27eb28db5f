// A tensor as Python describes it: address, element type, device, shape, strides. No framework's types cross the border, so one
// build serves every version of torch. Each check below raises with the argument's name, what it must be and what it is.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/scalar.h"

namespace di {

enum class DType { float32, float64, float16, bfloat16, uint8, int32, int64 };

struct TensorRef {
  uintptr_t address;
  DType dtype;
  int device;   // -1: CPU, else the CUDA device's index
  std::vector<int64_t> shape, strides;

  template <class T> T* data() const { return reinterpret_cast<T*>(address); }
  int64_t size(int axis) const { return shape[axis]; }
};

inline const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "float64", "float16", "bfloat16", "uint8", "int32", "int64"};
  return names[int(dtype)];
}

inline std::string text(const std::vector<int64_t>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + std::to_string(values[i]);
  return out + "]";
}

[[noreturn]] inline void fail(const std::string& name, const std::string& must, const std::string& got) {
  throw std::invalid_argument(name + " must " + must + ", got " + got);
}

inline void check_shape(const std::string& name, const TensorRef& t, const std::vector<int64_t>& shape) {
  if (t.shape != shape) fail(name, "have shape " + text(shape), text(t.shape));
}
inline void check_rank(const std::string& name, const TensorRef& t, size_t rank) {
  if (t.shape.size() != rank) fail(name, "have " + std::to_string(rank) + " dimensions", text(t.shape));
}
inline void check_dtype(const std::string& name, const TensorRef& t, DType dtype) {
  if (t.dtype != dtype) fail(name, std::string("be ") + name_of(dtype), name_of(t.dtype));
}
inline std::string device_name(int device) { return device < 0 ? "cpu" : "cuda:" + std::to_string(device); }
inline void check_same_device(const std::string& name, const TensorRef& t, const TensorRef& reference) {
  if (t.device != reference.device) fail(name, "be on " + device_name(reference.device), device_name(t.device));
}
inline void check_contiguous(const std::string& name, const TensorRef& t) {
  for (int64_t size : t.shape)
    if (size == 0) return;   // strides of nothing mean nothing
  int64_t expected = 1;
  for (size_t i = t.shape.size(); i-- > 0; expected *= t.shape[i])
    if (t.shape[i] > 1 && t.strides[i] != expected) fail(name, "be contiguous", "strides " + text(t.strides));
}
inline void check_aligned(const std::string& name, const TensorRef& t, uintptr_t bytes) {
  if (t.address % bytes)
    fail(name, "be aligned to " + std::to_string(bytes) + " bytes", "an offset of " + std::to_string(t.address % bytes));
}

// Calls f with a value of the element type that dtype names.
template <class F> void dispatch_float(const std::string& name, DType dtype, F f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    default: fail(name, "be float32, float16 or bfloat16", name_of(dtype));
  }
}

[[noreturn]] inline void no_cuda_code(const std::string& name) {
  throw std::runtime_error(name + " is on a CUDA device, but this build has no CUDA code (dali_icgan.build_info())");
}

}  // namespace di
