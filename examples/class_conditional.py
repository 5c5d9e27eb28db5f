"""A class-conditional checkpoint (CC-IC-GAN), and which of its classes each of your folders is.

python examples/class_conditional.py FOLDER GENERATOR EXTRACTOR [NAME=CLASS ...]

GENERATOR and EXTRACTOR: checkpoints in the official layout, such as a G_ema.pth of CC-IC-GAN and its ResNet-50. Folders
named by ImageNet's WordNet ids need no more; otherwise say each folder's class: cat=281 coffee=967.
"""

import sys

import torch

import dali_icgan as di


def main(folder: str, generator_file: str, extractor_file: str, *pairs: str) -> None:
    generator = di.load_generator(generator_file)
    if not generator.class_conditional:
        raise SystemExit(f"{generator_file} takes no classes: it is a plain IC-GAN")
    given = dict(pair.split("=") for pair in pairs)
    classes = di.DataLoader(folder).dataset.classes
    if given and set(given) != set(classes):
        raise SystemExit(f"every folder must have a class, and no other name: {', '.join(classes)}")
    augment = di.DAICGAN(
        generator=generator,
        extractor=di.load_extractor(extractor_file),
        class_map=[int(given[name]) for name in classes] if given else None,  # None: found by WordNet ids
        p=0.5,
    )
    loader = di.DataLoader(
        folder, 8, shuffle=True, augment=augment, transform=di.TrainTransform(64), dtype=torch.float32, return_info=True
    )
    of_class = augment.bind(loader.dataset, loader.seed).class_map
    for _, labels, info in loader:
        for label, path, replaced in zip(labels.tolist(), info["path"], info["replaced"], strict=True):
            what = f"generated as the generator's class {of_class[label]}" if replaced else "a photograph"
            print(f"{path}: label {label} ({classes[label]}), {what}")


if __name__ == "__main__":
    main(*sys.argv[1:])
