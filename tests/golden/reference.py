"""IC-GAN's generator once more, in plain float64, straight from the published arithmetic; shares nothing with the package."""

import itertools
import math

import torch

# resolution: multiples of ch at the input of each block, and at the output of the last.
WIDTHS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}


def shapes(config):
    """Every key and shape of a state dict, for ``config`` with the keys of the golden files."""
    widths = [config["ch"] * m for m in WIDTHS[config["resolution"]]]
    condition = config["shared_dim_feat"]
    condition += config["shared_dim"] if config["class_cond"] else 0
    condition += config["chunk"] if config["hier"] else 0
    normed = {
        "shared_feat": (config["shared_dim_feat"], config["feature_dim"]),
        "linear": (16 * widths[0], config["chunk"]),
        "output_layer.2": (3, widths[-1], 3, 3),
    }
    found = {"shared.weight": (config["n_classes"], config["shared_dim"])}
    for i, (cin, cout) in enumerate(itertools.pairwise(widths)):
        block = f"blocks.{i}.0"
        normed |= {f"{block}.conv1": (cout, cin, 3, 3), f"{block}.conv2": (cout, cout, 3, 3)}
        normed[f"{block}.conv_sc"] = (cout, cin, 1, 1)
        for bn, c in (("bn1", cin), ("bn2", cout)):
            found |= {f"{block}.{bn}.stored_mean": (c,), f"{block}.{bn}.stored_var": (c,)}
            normed |= {f"{block}.{bn}.gain": (c, condition), f"{block}.{bn}.bias": (c, condition)}
        if 8 << i in config["attention"]:
            here = f"blocks.{i}.1"
            found[f"{here}.gamma"] = ()
            normed |= {f"{here}.theta": (cout // 8, cout, 1, 1), f"{here}.phi": (cout // 8, cout, 1, 1)}
            normed |= {f"{here}.g": (cout // 2, cout, 1, 1), f"{here}.o": (cout, cout // 2, 1, 1)}
    for name in ("gain", "bias", "stored_mean", "stored_var"):
        found[f"output_layer.0.{name}"] = (widths[-1],)
    for name, shape in normed.items():
        found |= {f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
        if name.rpartition(".")[2] in ("shared_feat", "linear", "conv1", "conv2", "conv_sc", "2"):
            found[f"{name}.bias"] = (shape[0],)
    return found


def sigma(weight, u):
    """One power step from u, then the gain in the direction that it found."""
    matrix = weight.reshape(len(weight), -1)
    v = u.reshape(-1) @ matrix
    v = v / max(v.norm().item(), 1e-6)
    return (matrix @ v).norm()


def generate(config, state, z, h, y=None, batch_statistics=None):
    """Images in float64. A dict given as ``batch_statistics`` makes every batch norm use its batch's, and receives them."""
    state = {name: t.double() for name, t in state.items()}
    z, h = z.double(), h.double()

    def weight(name):
        return state[f"{name}.weight"] / sigma(state[f"{name}.weight"], state[f"{name}.u0"])

    def linear(name, x):
        return x @ weight(name).T + state.get(f"{name}.bias", 0.0)

    def convolution(name, x):
        w = weight(name)
        n, _, height, width = x.shape
        columns = torch.nn.functional.unfold(x, w.shape[2], padding=w.shape[2] // 2)
        out = (w.reshape(len(w), -1) @ columns).reshape(n, len(w), height, width)
        return out + state[f"{name}.bias"].reshape(-1, 1, 1) if f"{name}.bias" in state else out

    def standardised(name, x):
        if batch_statistics is None:
            mean, var = state[f"{name}.stored_mean"], state[f"{name}.stored_var"]
        else:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            batch_statistics[name] = mean, var
        return (x - mean.reshape(-1, 1, 1)) / (var.reshape(-1, 1, 1) + 1e-5).sqrt()

    def conditional(name, x, vector):
        gain, bias = linear_nobias(f"{name}.gain", vector), linear_nobias(f"{name}.bias", vector)
        return standardised(name, x) * (1 + gain[:, :, None, None]) + bias[:, :, None, None]

    def linear_nobias(name, x):
        return x @ weight(name).T

    def nearest(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def pooled(x):
        n, c, height, width = x.shape
        return x.reshape(n, c, height // 2, 2, width // 2, 2).amax((3, 5)).reshape(n, c, -1)

    def attend(name, x):
        theta = convolution(f"{name}.theta", x).flatten(2)
        phi, g = pooled(convolution(f"{name}.phi", x)), pooled(convolution(f"{name}.g", x))
        logits = torch.einsum("ncq,nck->nqk", theta, phi)
        beta = (logits - logits.amax(2, keepdim=True)).exp()
        beta = beta / beta.sum(2, keepdim=True)
        o = torch.einsum("nck,nqk->ncq", g, beta).reshape(len(x), -1, *x.shape[2:])
        return state[f"{name}.gamma"] * convolution(f"{name}.o", o) + x

    c = linear("shared_feat", h)
    if config["class_cond"]:
        c = torch.cat([state["shared.weight"][y], c], 1)
    chunk, blocks = config["chunk"], int(math.log2(config["resolution"])) - 2
    x = linear("linear", z[:, :chunk]).reshape(len(z), -1, 4, 4)
    for i in range(blocks):
        vector = torch.cat([c, z[:, (i + 1) * chunk : (i + 2) * chunk]], 1) if config["hier"] else c
        a = nearest(conditional(f"blocks.{i}.0.bn1", x, vector).clamp_min(0))
        a = convolution(f"blocks.{i}.0.conv1", a)
        a = convolution(f"blocks.{i}.0.conv2", conditional(f"blocks.{i}.0.bn2", a, vector).clamp_min(0))
        x = a + convolution(f"blocks.{i}.0.conv_sc", nearest(x))
        if 8 << i in config["attention"]:
            x = attend(f"blocks.{i}.1", x)
    gain, bias = (state[f"output_layer.0.{name}"].reshape(-1, 1, 1) for name in ("gain", "bias"))
    return convolution("output_layer.2", (standardised("output_layer.0", x) * gain + bias).clamp_min(0)).tanh()
