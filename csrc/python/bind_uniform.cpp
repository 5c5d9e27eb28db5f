#include "ops/uniform/uniform.h"
#include "registry.h"
#include "row_keys.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

py::array_t<double> uniform(uint64_t seed, uint32_t epoch, const py::array& index, const py::array& repeat, uint8_t view,
                            uint8_t stream, int64_t count) {
  const RowKeys keys(index, repeat);
  if (count < 0 || count >= int64_t{1} << 32) fail("count", "be in [0, 2^32)", std::to_string(count));
  py::array_t<double> out({keys.n, count});
  double* data = out.mutable_data();
  py::gil_scoped_release without_gil;
  uniform_cpu(keys.index, keys.repeat, data, keys.n, count, random_key(seed, epoch, stream, view));
  return out;
}

py::array_t<int64_t> randint(uint64_t seed, uint32_t epoch, const py::array& index, const py::array& repeat, uint8_t view,
                             uint8_t stream, const py::array& high) {
  const RowKeys keys(index, repeat);
  const int64_t* range = int64_vector("high", high, keys.n, 1, INT64_MAX, "[1, 2^63)");
  py::array_t<int64_t> out(keys.n);
  int64_t* data = out.mutable_data();
  py::gil_scoped_release without_gil;
  randint_cpu(keys.index, keys.repeat, range, data, keys.n, random_key(seed, epoch, stream, view));
  return out;
}

std::vector<uint32_t> philox(const std::vector<uint32_t>& counter, uint64_t key) {   // for the known-answer tests
  const PhiloxBlock block = philox4x32_10({{counter.at(0), counter.at(1), counter.at(2), counter.at(3)}}, key);
  return {block.word, block.word + 4};
}

const Register registered{[](py::module_& module) {
  module.def("uniform", &uniform);
  module.def("randint", &randint);
  module.def("philox4x32_10", &philox);
  module.def("check_row_keys", [](const py::array& index, const py::array& repeat) { RowKeys(index, repeat); });
}};

}  // namespace
}  // namespace di
