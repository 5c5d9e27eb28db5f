#include "ops/image_header/image_header.h"
#include "registry.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

py::tuple image_header_of(const py::object& data) {
  if (!PyObject_CheckBuffer(data.ptr()))
    throw py::type_error(std::string("data must be bytes, a memoryview or a uint8 array, got ") + Py_TYPE(data.ptr())->tp_name);
  const py::buffer_info bytes = py::reinterpret_borrow<py::buffer>(data).request();
  if (bytes.itemsize != 1) fail("data", "hold bytes", "elements of " + std::to_string(bytes.itemsize) + " bytes");
  if (bytes.ndim != 1) fail("data", "have 1 dimension", std::to_string(bytes.ndim));
  if (bytes.size > 1 && bytes.strides[0] != 1) fail("data", "be contiguous", "a stride of " + std::to_string(bytes.strides[0]));
  const ImageHeader header = [&] {
    const py::gil_scoped_release without_gil;
    return image_header(static_cast<const uint8_t*>(bytes.ptr), size_t(bytes.size));
  }();
  return py::make_tuple(header.format, header.width, header.height, header.orientation, header.suspect,
                        header.depth, header.cmyk, header.irregular);
}

const Register registered{[](py::module_& module) { module.def("image_header", &image_header_of); }};

}  // namespace
}  // namespace di
