"""Who is measured beside this package's loader, one module each."""

from collections.abc import Sequence

from dali_icgan.bench.peers.dali_alone import Dali
from dali_icgan.bench.peers.ffcv_loader import Ffcv
from dali_icgan.bench.peers.mosaic_streaming import Streaming
from dali_icgan.bench.peers.peer import Peer
from dali_icgan.bench.peers.pil import Pil
from dali_icgan.bench.peers.spdl_pipeline import Spdl
from dali_icgan.bench.peers.timm_loader import Timm
from dali_icgan.bench.peers.torchvision_io import TorchvisionIo
from dali_icgan.bench.peers.web_dataset import WebDataset

PEERS: tuple[Peer, ...] = (Pil(), TorchvisionIo(), Timm(), Dali(), Spdl(), WebDataset(), Streaming(), Ffcv())
BASELINE = PEERS[0]  # what ratios are to, and what the other contests are beside


def chosen(ids: Sequence[str]) -> tuple[Peer, ...]:
    """By their ids, in the table's order; "all" for all, "none" for none.

    Raises:
        ValueError: there is no such peer.
    """
    known = [peer.id for peer in PEERS]
    for each in ids:
        if each not in (*known, "all", "none"):
            raise ValueError(f"--peers must be all, none or some of {', '.join(known)}, got {each!r}")
    return tuple(peer for peer in PEERS if "all" in ids or peer.id in ids)
