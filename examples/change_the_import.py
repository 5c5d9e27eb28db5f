"""A training loop as with torch's DataLoader: one import, and what is augmented, are other lines.

python examples/change_the_import.py FOLDER    (images in one subfolder a class)
"""

import sys

import torch
from torch.nn.functional import cross_entropy

# from torch.utils.data import DataLoader
from dali_icgan import DAICGAN, DataLoader, TrainTransform, load_extractor, load_generator


def main(folder: str) -> None:
    # The small pair inside the package knows the demo's photographs alone; name your checkpoints in its place.
    augment = DAICGAN(generator=load_generator("embedded"), extractor=load_extractor("embedded"), p=0.5)
    loader = DataLoader(
        folder,
        batch_size=8,
        shuffle=True,
        augment=augment,
        transform=TrainTransform(64),
        dtype=torch.float32,
        return_info=True,  # leave it out, and batches are (images, labels) as before
    )
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(256, len(loader.dataset.classes)),
    ).to(loader.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        loader.set_epoch(epoch)
        seen, generated, total = 0, 0, 0.0
        for images, labels, info in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen, generated = seen + len(labels), generated + int(info["replaced"].sum())
            total += loss.item() * len(labels)
        print(f"epoch {epoch}: {seen} images, {generated} of them generated; mean loss {total / seen:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
