"""The generators and extractors that are measured, each as ours and as the peers'."""

import os
from dataclasses import dataclass

import torch

from dali_icgan.augment import DAICGAN, FeatureBank
from dali_icgan.bench.eager import EagerExtractor, EagerGenerator
from dali_icgan.engine.extractor import Extractor
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.generator import Generator
from dali_icgan.engine.placement import resolve
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.models.checkpoint import Checkpoint, read_extractor, read_generator
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.ops.instructions import instruction_sets

EMBEDDED = "embedded"
GENERATORS: dict[str, GeneratorConfig | None] = {
    "256 px, channels 64": GeneratorConfig(256, 64, z_chunk=17, attention=(64,)),
    "256 px, channels 96": GeneratorConfig(256, 96, z_chunk=17, attention=(64,)),
    "64 px, channels 64": GeneratorConfig(64, 64, z_chunk=20, attention=(32,)),
    EMBEDDED: None,
}
EXTRACTORS: dict[str, ResNetConfig | None] = {"ResNet-50, 224 px": ResNetConfig(), EMBEDDED: None}


def generator_checkpoint(case: str, config: GeneratorConfig | None) -> Checkpoint[GeneratorConfig]:
    """Random weights: speed does not depend on them; without a config the embedded ones. In float64 scale 1 keeps activations finite:
    residual blocks add, norms scale down."""
    if config is None:
        return read_generator(EMBEDDED)
    torch.manual_seed(0)
    tensors = ICGenerator(config, "meta").to_empty(device="cpu").state_dict()
    for name, tensor in tensors.items():
        if name.endswith(("stored_var", "sv0", "output_layer.0.gain")):
            tensor.fill_(1)
        elif name.endswith("gamma"):
            tensor.fill_(0.5)
        elif name.endswith("stored_mean") or (name.endswith(".bias") and tensor.ndim == 1):
            tensor.zero_()
        else:
            tensor.normal_()
    return Checkpoint("generator", config, tensors, source=case, trained=False)


def extractor_checkpoint(case: str) -> Checkpoint[ResNetConfig]:
    """Random weights: speed does not depend on them. He's initialisation keeps activations finite; the last norm of a block halves."""
    config = EXTRACTORS[case]
    if config is None:
        return read_extractor(EMBEDDED)
    torch.manual_seed(0)
    tensors = ResNet(config).state_dict()
    for name, tensor in tensors.items():
        if name.endswith("bn3.weight"):
            tensor.fill_(0.5)
    return Checkpoint("extractor", config, tensors, source=case, trained=False)


def instructions(device: torch.device) -> str | None:
    """What our kernels on a CPU are compiled for.

    Raises:
        ValueError: they are held to AVX2 and the peers are not, or the other way round.
    """
    if device.type != "cpu":
        return None
    chosen = Forms.of(resolve(device, torch.float32)[2]).instructions
    held = (chosen == "avx2") == (os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2")
    if not held and "avx512" in instruction_sets():
        raise ValueError(
            "DALI_ICGAN_INSTRUCTIONS=avx2 must come with ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2, so that peers are held to the "
            f"same instructions, got {chosen} and ONEDNN_MAX_CPU_ISA={os.environ.get('ONEDNN_MAX_CPU_ISA')}"
        )
    return chosen


@dataclass(frozen=True)
class Models:
    """A generator and an extractor, each as ours and as the peers'.

    Attributes:
        case: one of :data:`GENERATORS`.
    """

    case: str
    generator: Generator
    extractor: Extractor
    eager_generator: EagerGenerator
    eager_extractor: EagerExtractor

    def augment(self, p: float, bank: FeatureBank | None) -> DAICGAN:
        """With features from the bank; None: from the photographs, as they are decoded."""
        if bank is None:
            return DAICGAN(generator=self.generator, extractor=self.extractor, p=p)
        return DAICGAN(generator=self.generator, bank=bank, p=p)


def load_models(case: str, device: torch.device) -> Models:
    """In float32 on the CPU, float16 on CUDA."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    of_generator = generator_checkpoint(case, GENERATORS[case])
    # The features that it was trained with; a generator with random weights has those of a ResNet-50 with random weights.
    of_extractor = extractor_checkpoint(EMBEDDED if case == EMBEDDED else "ResNet-50, 224 px")
    generator, extractor = EagerGenerator(fold(of_generator)), EagerExtractor(fold_trunk(of_extractor))
    for model in (generator, extractor):
        model.eval().requires_grad_(False).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Models(
        case,
        Generator(of_generator, device, dtype),
        Extractor(of_extractor, device, dtype, resolution=of_generator.config.resolution),
        generator,
        extractor,
    )
