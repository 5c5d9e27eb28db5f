"""Files of images: what they are called, and how one is read."""

import errno
import os
import stat

# torchvision's ImageFolder lists exactly these, so that indices agree with it.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read_file(path: str) -> bytes:
    """The file's content, read without Python's buffering.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    # O_NONBLOCK: opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        size = found.st_size
        parts = [os.read(descriptor, size + 1)]
        while parts[-1] and sum(map(len, parts)) != size:
            parts.append(os.read(descriptor, 1 << 20))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """So many bytes of an open file from there on, whoever else reads it; fewer where it ends.

    Raises:
        OSError: it cannot be read.
    """
    parts = [os.pread(descriptor, size, offset)]
    while parts[-1] and (done := sum(map(len, parts))) < size:
        parts.append(os.pread(descriptor, size - done, offset + done))
    return parts[0] if len(parts) == 1 else b"".join(parts)
