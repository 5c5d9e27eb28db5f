"""Two views for self-supervised learning: a photograph, and a generation from its own features.

python examples/two_views.py FOLDER    (images in one subfolder a class; needs the extra `train`, for lightly's loss)
"""

import sys

import torch
from lightly.loss import NTXentLoss

import dali_icgan as di


def main(folder: str) -> None:
    augment = di.DAICGAN(
        generator=di.load_generator("embedded"),  # the demo's small pair; name your checkpoints in its place
        extractor=di.load_extractor("embedded"),
        view_p=(0, 1),  # view 0 is always the photograph, view 1 always a generation; (0, 0.5) mixes them
    )
    loader = di.DataLoader(
        folder,
        batch_size=8,
        shuffle=True,
        drop_last=True,
        views=2,
        augment=augment,
        transform=di.TrainTransform(64, scale=(0.35, 1)),
        dtype=torch.float32,
    )
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 7, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 64),
    ).to(loader.device)
    optimizer, criterion = torch.optim.Adam(network.parameters(), lr=1e-3), NTXentLoss(temperature=0.5)
    for epoch in range(3):
        losses = []
        for (photographs, generations), _ in loader:
            loss = criterion(network(photographs), network(generations))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: contrastive loss {sum(losses) / len(losses):.3f} over {len(losses)} batches")


if __name__ == "__main__":
    main(*sys.argv[1:])
