"""Errors that are this package's own. The caller's mistakes are ValueError and TypeError; these are the world's."""


class DeviceError(RuntimeError):
    """The machine cannot do what was asked: no CUDA device, no CUDA code in this build, no DALI."""


class DecodeError(RuntimeError):
    """One image could not be read or decoded.

    Attributes:
        path: where it came from, as the dataset names it.
        index: its index in the dataset.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, index: int, reason: str) -> None:
        super().__init__(f"{path} (index {index}): {reason}")
        self.path = path
        self.index = index
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return type(self), (self.path, self.index, self.reason)


class RankError(RuntimeError):
    """Several processes were to do something together, and another one failed, ended or did not answer in time."""
