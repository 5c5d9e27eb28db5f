// NumPy arrays at the border: the rows' keys and whatever else is decided on the host.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <string>

#include "core/philox.h"
#include "tensor_ref.h"

namespace di {

// The data of a contiguous int64 array of the given length (-1: any), within [low, high]; `range` words the interval.
inline const int64_t* int64_vector(const std::string& name, const pybind11::array& array, int64_t length, int64_t low,
                                   int64_t high, const std::string& range) {
  if (!pybind11::isinstance<pybind11::array_t<int64_t>>(array))
    fail(name, "be an int64 array", pybind11::str(array.dtype()).cast<std::string>());
  const std::vector<int64_t> shape(array.shape(), array.shape() + array.ndim());
  if (shape.size() != 1) fail(name, "have 1 dimension", text(shape));
  if (length >= 0 && shape[0] != length) fail(name, "have shape " + text({length}), text(shape));
  if (!(array.flags() & pybind11::array::c_style)) fail(name, "be contiguous", "a strided view");
  const auto* data = static_cast<const int64_t*>(array.data());
  for (int64_t i = 0; i < shape[0]; ++i)
    if (data[i] < low || data[i] > high) fail(name, "be in " + range, std::to_string(data[i]) + " at row " + std::to_string(i));
  return data;
}

struct RowKeys {
  const int64_t *index, *repeat;   // [n]
  int64_t n;

  RowKeys(const pybind11::array& index_array, const pybind11::array& repeat_array)
      : index(int64_vector("index", index_array, -1, 0, (int64_t{1} << 48) - 1, "[0, 2^48)")),
        repeat(int64_vector("repeat", repeat_array, index_array.size(), 0, (int64_t{1} << 32) - 1, "[0, 2^32)")),
        n(index_array.size()) {}
};

}  // namespace di
