#include <pybind11/numpy.h>

#include <cmath>
#include <optional>

#include "core/device_guard.h"
#include "ops/assemble/assemble.h"
#include "ops/assemble/assemble_math.h"
#include "registry.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

constexpr int64_t kLargest = 65535;

std::string at(const char* name, int64_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }
std::string by(int64_t height, int64_t width) { return std::to_string(height) + " x " + std::to_string(width); }
std::string pair(const double* yx) { return "[" + std::to_string(yx[0]) + ", " + std::to_string(yx[1]) + "]"; }

// The values of a C-contiguous numpy array of exactly this type and shape.
template <class V> const V* values(const char* name, const py::object& object, const std::vector<int64_t>& shape) {
  const std::string type = py::str(py::dtype::of<V>());
  if (!py::isinstance<py::array>(object))
    throw py::type_error(std::string(name) + " must be a numpy array, got " + Py_TYPE(object.ptr())->tp_name);
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<V>>(object)) fail(name, "be " + type, py::str(array.dtype()));
  const std::vector<int64_t> got(array.shape(), array.shape() + array.ndim());
  if (got != shape) fail(name, "have shape " + text(shape), text(got));
  if (!(array.flags() & py::array::c_style))
    fail(name, "be C-contiguous", "strides " + text({array.strides(), array.strides() + array.ndim()}));
  return static_cast<const V*>(array.data());
}

// [n, 3, height, width]; whether it is channels_last. Both layouts are the same for one pixel.
bool check_images(const char* name, const TensorRef& t) {
  check_rank(name, t, 4);
  if (t.size(1) != 3) fail(name, "have 3 channels", text(t.shape));
  for (int axis : {2, 3})
    if (t.size(axis) < 1 || t.size(axis) > kLargest)
      fail(name, "have a height and width of 1 to " + std::to_string(kLargest), text(t.shape));
  const auto strided = [&](const std::vector<int64_t>& strides) {
    for (int axis = 0; axis < 4; ++axis)
      if (t.size(axis) > 1 && t.strides[axis] != strides[axis]) return false;
    return true;
  };
  const int64_t height = t.size(2), width = t.size(3), image = 3 * height * width;
  if (strided({image, height * width, width, 1})) return false;
  if (strided({image, 1, 3 * width, 3})) return true;
  fail(name, "be contiguous or channels_last", "shape " + text(t.shape) + " with strides " + text(t.strides));
}

struct Region {   // as Python describes a tensor
  int64_t address, height, width, channels, row_stride, pixel_stride, channel_stride;
};

int64_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

void check_apart(const std::string& name, int64_t address, int64_t bytes, const TensorRef& out) {
  const int64_t begin = out.address, size = bytes_of(out.dtype) * out.size(0) * 3 * out.size(2) * out.size(3);
  if (address < begin + size && begin < address + bytes) fail("out", "not share memory with " + name, "an overlap");
}

// Checks everything that says what is read, and fills rows with it. regions: int64 [m, 7], a Region each.
void assemble_rows(const py::object& regions, const std::optional<TensorRef>& generated, const py::object& source,
                   const py::object& window, const py::object& offset, const py::object& scale, const py::object& flip,
                   const TensorRef& out, const TensorRef& rows) {
  check_images("out", out);
  const int64_t n = out.size(0), height = out.size(2), width = out.size(3);
  const int64_t region_count = py::len(regions), generated_count = generated ? generated->size(0) : 0;
  const auto* region = reinterpret_cast<const Region*>(values<int64_t>("regions", regions, {region_count, 7}));
  bool generated_last = false;
  int64_t generated_values = 0;
  for (int64_t j = 0; j < region_count; ++j) {
    const Region& r = region[j];
    if (r.channels != 3 || r.height < 1 || r.width < 1)
      fail(at("regions", j), "have shape [height, width, 3]", text({r.height, r.width, r.channels}));
    if (r.channel_stride != 1 || (r.width > 1 && r.pixel_stride != 3))
      fail(at("regions", j), "have contiguous rows", "strides " + text({r.row_stride, r.pixel_stride, r.channel_stride}));
    check_apart(at("regions", j), r.address, (r.height - 1) * r.row_stride + 3 * r.width, out);
  }
  if (generated) {
    generated_last = check_images("generated", *generated);
    check_same_device("generated", *generated, out);
    generated_values = 3 * generated->size(2) * generated->size(3);
    check_apart("generated", generated->address, bytes_of(generated->dtype) * generated_count * generated_values, out);
  }
  const int64_t* sources = values<int64_t>("source", source, {n});
  const int32_t* windows = values<int32_t>("window", window, {n, 4});
  const double* offsets = values<double>("offset", offset, {n, 2});
  const double* scales = values<double>("scale", scale, {n, 2});
  const bool* flips = values<bool>("flip", flip, {n});
  check_shape("rows", rows, {n, int64_t(sizeof(AssembleRow))});
  check_dtype("rows", rows, DType::uint8);
  check_contiguous("rows", rows);
  check_aligned("rows", rows, alignof(AssembleRow));

  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = sources[i];
    if (j >= region_count || j < -generated_count)
      fail(at("source", i), "name one of " + std::to_string(region_count) + " regions (from 0) or of " +
           std::to_string(generated_count) + " generated images (from -1 down)", std::to_string(j));
    const bool real = j >= 0;
    const int64_t source_height = real ? region[j].height : generated->size(2);
    const int64_t source_width = real ? region[j].width : generated->size(3);
    const int64_t top = windows[4 * i], left = windows[4 * i + 1], tall = windows[4 * i + 2], wide = windows[4 * i + 3];
    if (top < 0 || left < 0 || tall < 1 || wide < 1 || top + tall > source_height || left + wide > source_width)
      fail(at("window", i), "lie inside its source of " + by(source_height, source_width),
           by(tall, wide) + " at " + text({top, left}));
    const int64_t lengths[2] = {tall, wide}, sizes[2] = {height, width};
    for (int axis = 0; axis < 2; ++axis) {
      const double o = offsets[2 * i + axis], s = scales[2 * i + axis];
      if (!(s > 0 && std::isfinite(s))) fail(at("scale", i), "be positive and finite", pair(scales + 2 * i));
      if (!(o + 0.5 * s >= 0 && o + (sizes[axis] - 0.5) * s <= double(lengths[axis])))
        fail(at("offset", i), "keep the centres of " + by(height, width) + " output pixels in the window of " + by(tall, wide),
             pair(offsets + 2 * i) + " with scale " + pair(scales + 2 * i));
    }

    AssembleRow& row = rows.data<AssembleRow>()[i];
    row.offset_y = offsets[2 * i], row.offset_x = offsets[2 * i + 1];
    row.scale_y = scales[2 * i], row.scale_x = scales[2 * i + 1];
    row.height = int32_t(tall), row.width = int32_t(wide);
    row.generated = !real, row.flip = flips[i];
    if (real) {
      row.row_stride = region[j].row_stride, row.channel_stride = 1;
      row.data = reinterpret_cast<const void*>(region[j].address + top * row.row_stride + left * 3);
    } else {
      row.row_stride = source_width * (generated_last ? 3 : 1);
      row.channel_stride = generated_last ? 1 : source_height * source_width;
      const int64_t first = (-1 - j) * generated_values + top * row.row_stride + left * (generated_last ? 3 : 1);
      row.data = reinterpret_cast<const void*>(generated->address + first * bytes_of(generated->dtype));
    }
  }
}

// rows: what assemble_rows filled, on out's device. generated: for its element type alone.
void assemble(const TensorRef& rows, const std::optional<TensorRef>& generated, const std::vector<double>& real_mean,
              const std::vector<double>& real_std, const std::vector<double>& generated_mean,
              const std::vector<double>& generated_std, const TensorRef& out, int threads, [[maybe_unused]] uintptr_t stream) {
  AssembleParams params{};
  params.channels_last = check_images("out", out);
  params.n = out.size(0), params.height = int32_t(out.size(2)), params.width = int32_t(out.size(3));
  if (params.n > kLargest) fail("out", "hold at most " + std::to_string(kLargest) + " images", std::to_string(params.n));
  check_same_device("rows", rows, out);
  const struct { const char *mean_name, *std_name; const std::vector<double>&mean, &std; } kinds[2] = {
      {"real_mean", "real_std", real_mean, real_std}, {"generated_mean", "generated_std", generated_mean, generated_std}};
  for (int kind = 0; kind < 2; ++kind) {
    const auto& [mean_name, std_name, mean, std] = kinds[kind];
    if (mean.size() != 3) fail(mean_name, "have 3 values", std::to_string(mean.size()));
    if (std.size() != 3) fail(std_name, "have 3 values", std::to_string(std.size()));
    for (int c = 0; c < 3; ++c) {
      const Normalisation to = normalisation(kind == 1, mean[c], std[c]);
      if (!std::isfinite(mean[c])) fail(mean_name, "be finite", std::to_string(mean[c]));
      if (!(std[c] > 0 && to.scale > 0 && std::isfinite(to.scale) && std::isfinite(to.shift)))
        fail(std_name, "be positive and finite", std::to_string(std[c]));
      params.scale[kind][c] = to.scale, params.shift[kind][c] = to.shift;
    }
  }

  py::gil_scoped_release without_gil;
  dispatch_float("generated", generated ? generated->dtype : DType::float32, [&](auto value) {
    using G = decltype(value);
    dispatch_float("out", out.dtype, [&](auto element) {
      using T = decltype(element);
      if (out.device < 0) return assemble_cpu<G>(rows.data<AssembleRow>(), out.data<T>(), params, threads);
#ifdef DI_WITH_CUDA
      const DeviceGuard on_device(out.device);
      assemble_cuda<G>(rows.data<AssembleRow>(), out.data<T>(), params, reinterpret_cast<Stream>(stream));
#else
      no_cuda_code("out");
#endif
    });
  });
}

const Register registered{[](py::module_& module) {
  module.attr("assemble_row_bytes") = sizeof(AssembleRow);
  module.def("assemble_rows", &assemble_rows);
  module.def("assemble", &assemble);
}};

}  // namespace
}  // namespace di
