#include "ops/permutation/permutation.h"
#include "registry.h"
#include "row_keys.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

py::array_t<int64_t> permutation(uint64_t seed, uint32_t epoch, uint8_t stream, int64_t n, const py::array& positions) {
  if (n < 1 || n > kMaxPermutation) fail("n", "be in [1, 2^40]", std::to_string(n));
  const int64_t* data = int64_vector("positions", positions, -1, 0, n - 1, "[0, " + std::to_string(n) + ")");
  const int64_t count = positions.size();
  py::array_t<int64_t> out(count);
  int64_t* indices = out.mutable_data();
  py::gil_scoped_release without_gil;
  permutation_cpu(data, indices, count, n, seed, epoch, stream);
  return out;
}

const Register registered{[](py::module_& module) { module.def("permutation", &permutation); }};

}  // namespace
}  // namespace di
