#include "ops/random_resized_crop/random_resized_crop.h"
#include "registry.h"
#include "row_keys.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

py::array_t<int32_t> random_resized_crop(uint64_t seed, uint32_t epoch, const py::array& index, const py::array& repeat,
                                         uint8_t view, uint8_t stream, const py::array& height, const py::array& width,
                                         const std::array<double, 2>& scale, const std::array<double, 2>& ratio) {
  const RowKeys keys(index, repeat);
  const int64_t* heights = int64_vector("height", height, keys.n, 1, INT32_MAX, "[1, 2^31)");
  const int64_t* widths = int64_vector("width", width, keys.n, 1, INT32_MAX, "[1, 2^31)");
  const RandomResizedCropParams params{keys.n, {scale[0], scale[1]}, {ratio[0], ratio[1]}};
  py::array_t<int32_t> box({keys.n, int64_t{4}});
  int32_t* data = box.mutable_data();
  py::gil_scoped_release without_gil;
  random_resized_crop_cpu(keys.index, keys.repeat, heights, widths, data, params, random_key(seed, epoch, stream, view));
  return box;
}

const Register registered{[](py::module_& module) { module.def("random_resized_crop", &random_resized_crop); }};

}  // namespace
}  // namespace di
