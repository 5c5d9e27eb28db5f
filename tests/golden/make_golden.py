"""Writes the golden generators beside this file: ``python -m tests.golden.make_golden``. Random weights, outputs of reference.py."""

from pathlib import Path

import torch

from tests.golden.reference import generate, shapes, sigma

PLAIN = {
    "feature_dim": 24,
    "shared_dim_feat": 12,
    "n_classes": 7,
    "shared_dim": 5,
    "hier": True,
    "class_cond": False,
    "attention": [],
}
CASES = {
    "ic_res32": PLAIN | {"resolution": 32, "ch": 4, "chunk": 3},
    "ic_res64": PLAIN | {"resolution": 64, "ch": 2, "chunk": 4, "attention": [32]},
    "cc_res64": PLAIN | {"resolution": 64, "ch": 2, "chunk": 4, "attention": [32], "class_cond": True},
    "ic_res64_unsettled_u": PLAIN | {"resolution": 64, "ch": 2, "chunk": 3, "attention": [32]},
    "ic_res128": PLAIN | {"resolution": 128, "ch": 2, "chunk": 2, "attention": [32]},
    "cc_res256": PLAIN | {"resolution": 256, "ch": 2, "chunk": 2, "attention": [64], "class_cond": True},
    "ic_res32_flat_z": PLAIN | {"resolution": 32, "ch": 2, "chunk": 6, "hier": False},
    "cc_res32_flat_z": PLAIN
    | {"resolution": 32, "ch": 2, "chunk": 6, "hier": False, "class_cond": True, "attention": [8, 16]},
}
STORED = 6000  # numbers of an output that are kept, evenly spread


def make(name, config, generator):
    def normal(*shape):
        return torch.randn(shape, generator=generator)

    state = {}
    for key, shape in shapes(config).items():
        last = key.rpartition(".")[2]
        state[key] = {
            "gamma": lambda shape: torch.tensor(0.7),
            "gain": lambda shape: 1 + 0.3 * normal(*shape),
            "bias": lambda shape: 0.2 * normal(*shape),
            "stored_var": lambda shape: torch.ones(shape),
        }.get(last, lambda shape: normal(*shape))(shape)
        if last == "weight" and len(shape) > 1:
            # Uneven spectra: where all singular values are alike, no mistake with them shows.
            state[key] *= torch.logspace(0, -1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    if "unsettled" not in name:
        for key in [k for k in state if k.endswith(".u0")]:
            matrix = state[key.replace("u0", "weight")].flatten(1)
            for _ in range(30):
                state[key] = torch.nn.functional.normalize(state[key] @ matrix @ matrix.T)
            state[key.replace("u0", "sv0")] = sigma(matrix, state[key]).reshape(1)
    columns = config["chunk"] * (4 + {32: 0, 64: 1, 128: 2, 256: 3}[config["resolution"]] if config["hier"] else 1)
    z, h = normal(16, columns), torch.nn.functional.normalize(normal(16, config["feature_dim"]))
    y = torch.randint(config["n_classes"], (16,), generator=generator) if config["class_cond"] else None
    statistics = {}
    generate(config, state, z, h, y, batch_statistics=statistics)
    for norm, (mean, var) in statistics.items():
        state[f"{norm}.stored_mean"] = mean + 0.1 * var.sqrt() * normal(*mean.shape)
        state[f"{norm}.stored_var"] = var * (0.2 * normal(*var.shape)).exp()
    # Half precision halves the files; it is the weights' exact value from here on.
    state = {key: t.half() for key, t in state.items()}
    z, h, y = z[:2], h[:2], None if y is None else y[:2]
    output = generate(config, state, z, h, y).flatten()
    stride = -(-len(output) // STORED) | 1
    return {
        "config": config,
        "state_dict": state,
        "z": z,
        "h": h,
        "y": y,
        "stride": stride,
        "output64": output[::stride].clone(),
    }


if __name__ == "__main__":
    for seed, (name, config) in enumerate(CASES.items()):
        golden = make(name, config, torch.Generator().manual_seed(seed))
        print(name, f"deviation {golden['output64'].std():.3f}, largest {golden['output64'].abs().max():.3f}")
        torch.save(golden, Path(__file__).parent / f"{name}.pt")
