"""Recipes in a size for tests: timm's smallest networks, 32 px, a few steps on the CPU."""

from dali_icgan.recipes.config import read_recipe
from dali_icgan.recipes.trainer import train_recipe
from tests.untrained import FOLDER as MODELS

_ALWAYS = (
    "run.precision=fp32",
    "run.batch_size=12",
    "run.save_every=1000",
    "run.log_every=1",
    "data.threads=1",
    "data.val_resize=36",
    "data.val_crop=32",
    "schedule.epochs=2",
    "schedule.warmup_epochs=0",
    "optimizer.lr_batch=12",
    f"generate.generator={MODELS / 'generator.safetensors'}",
    "generate.k=5",
)
_SUPERVISED = ("crop.size=32", "schedule.milestones=[]", "schedule.kind=cosine", "schedule.min_lr=0")
_SIZES = {
    "resnet": (*_SUPERVISED, "model.name=test_resnet", "optimizer.lr=0.05"),
    "deit": (*_SUPERVISED, "model.name=test_vit", "optimizer.lr=0.001"),
    "swav": (
        "model.name=test_resnet",
        "views.global_size=32",
        "views.local_size=16",
        "views.local_views=2",
        "swav.prototypes=12",
        "swav.hidden=32",
        "swav.dim=16",
        "swav.knn_k=5",
        "optimizer.name=sgd",
        "optimizer.lr=0.1",
        "model.sync_batch_norm=false",
        "schedule.min_lr=0",
    ),
}
_RECIPES = {"resnet": "resnet50", "deit": "deit-s", "swav": "swav"}


def small(kind, *options, bank=None):
    """A recipe; without a bank it generates nothing."""
    given = ("generate.arm=plain",) if bank is None else (f"generate.bank={bank}",)
    return read_recipe(_RECIPES[kind], None, [*_ALWAYS, *_SIZES[kind], *given, *options])


def train(kind, root, out, *options, bank=None, steps=None):
    return train_recipe(
        small(kind, *options, bank=bank), _RECIPES[kind], root, out, steps=steps, device="cpu", progress=False
    )
