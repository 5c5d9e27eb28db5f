"""A small generator and extractor with random weights: ``python -m tests.untrained`` writes tests/files/untrained.

They exercise every step of the package, but have learnt nothing: their images are coloured blotches. Batch-norm statistics are measured,
so that activations and images use their range.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dali_icgan.models.checkpoint import Checkpoint, write_checkpoint
from dali_icgan.models.generator import BatchNorm, ConditionalBatchNorm, GeneratorConfig, ICGenerator, SpectralLinear
from dali_icgan.models.resnet import ResNet, ResNetConfig

FOLDER = Path(__file__).parent / "files" / "untrained"
EXTRACTOR = ResNetConfig("basic", (1, 1, 1, 1), 16, stem_kernel=3, stem_stride=2, stem_pool=False, input_size=32)
GENERATOR = GeneratorConfig(
    resolution=32, channels=16, z_chunk=16, feature_dim=EXTRACTOR.dim, shared_dim_feat=48, n_classes=1, shared_dim=1
)


def coloured_noise(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Images ``[n, 3, size, size]`` of mean 0 and deviation 1 whose amplitude falls with frequency, as in photographs."""
    spectrum = torch.fft.rfft2(torch.randn(n, 3, size, size, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).clamp_min(0.5 / size)
    images = torch.fft.irfft2(spectrum / frequency**1.5, s=(size, size))
    # Channels are alike in photographs, and their means differ from image to image.
    images = images + 2 * images.mean(1, keepdim=True)
    return images / images.std((1, 2, 3), keepdim=True) + torch.randn(n, 3, 1, 1, generator=generator) * 0.5


def round_to_half(module: nn.Module) -> None:
    """What the file will hold: statistics are to be measured with that."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.half().float()


def make_extractor(images: Tensor) -> ResNet:
    model = ResNet(EXTRACTOR)
    last = f"layer{len(EXTRACTOR.depths)}.0."
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over all batches
            if name in (last + "bn2", last + "downsample.1"):
                # Features that are mostly off tell images apart; around their mean all rows would be nearly parallel.
                nn.init.constant_(module.bias, -0.8)
    round_to_half(model)
    model.train()
    for batch in images.split(256):
        model(batch)
    round_to_half(model)
    return model.eval()


def set_effective(layer: SpectralLinear, weight: Tensor) -> None:
    """Makes ``weight`` the layer's weight after spectral norm, but for one direction: the power step finds the one of gain 1."""
    left, gains, right = torch.linalg.svd(weight, full_matrices=False)
    gains[-1] = 1
    layer.weight.data = left * gains @ right
    layer.u0.copy_(left[None, :, -1])


def make_generator(features: Tensor, generator: torch.Generator, config: GeneratorConfig = GENERATOR) -> ICGenerator:
    model = ICGenerator(config)
    smooth = torch.tensor([0.5, 1.0, 0.5])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
            if module.weight.shape[2] == 3:
                module.weight.data *= smooth[:, None] * smooth
    # Spectral norm would let a random generator hardly react to a feature: here the embedding is white, and the norms follow it.
    dim = config.shared_dim_feat
    mean = features.mean(0)
    _, gains, directions = torch.linalg.svd(features - mean, full_matrices=False)
    white = directions[:dim] * (len(features) ** 0.5 / gains[:dim, None])
    set_effective(model.shared_feat, white)
    model.shared_feat.bias.data = -(model.shared_feat.weight @ mean)
    parts = [(dim, 0.5), (config.z_chunk, 0.2)]  # columns, and how much an image reacts to them
    y = None
    if config.class_conditional:
        parts.insert(0, (config.shared_dim, 0.5))
        y = torch.arange(len(features)) % config.n_classes
    reaction = torch.cat([torch.full((columns,), share / columns**0.5) for columns, share in parts])
    for norm in model.modules():
        if isinstance(norm, ConditionalBatchNorm):
            for layer in (norm.gain, norm.bias):
                set_effective(layer, torch.randn(layer.weight.shape, generator=generator) * reaction)
    if config.class_conditional:
        nn.init.normal_(model.shared.weight)
    else:
        model.shared.weight.data.zero_()
    round_to_half(model)
    model.eval()
    for norm in model.modules():
        # The norms alone, not the spectral layers in them: those would forget their u0.
        norm.training = isinstance(norm, BatchNorm | ConditionalBatchNorm)
    z = torch.randn(len(features), config.dim_z, generator=generator)
    for rows in torch.arange(len(features)).split(256):
        model(z[rows], features[rows], None if y is None else y[rows])
    model.eval()
    # Before the tanh: mean 0 and deviation 0.7 in every colour. ReLU passes a gain on.
    colours = model(z[:512], features[:512], None if y is None else y[:512])
    before = torch.atanh(colours.clamp(-1 + 1e-6, 1 - 1e-6))  # finite where the tanh is saturated
    norm, conv = model.output_layer[0], model.output_layer[2]
    assert isinstance(norm, BatchNorm)
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    stretch = 0.7 / before.std((0, 2, 3)).mean()
    norm.gain.data *= stretch
    conv.bias.data = -before.mean((0, 2, 3)) * stretch
    round_to_half(model)
    return model


def floats(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        images = coloured_noise(4096, EXTRACTOR.input_size, generator)
        extractor = make_extractor(images)
        features = F.normalize(torch.cat([extractor(batch) for batch in images.split(256)]))
        model = make_generator(features, generator)
    for checkpoint in (
        Checkpoint("generator", GENERATOR, floats(model), source="tests/untrained.py", trained=False),
        Checkpoint("extractor", EXTRACTOR, floats(extractor), source="tests/untrained.py", trained=False),
    ):
        write_checkpoint(folder / f"{checkpoint.kind}.safetensors", checkpoint, torch.float16)


if __name__ == "__main__":
    main(FOLDER)
