"""A small transformer as exporters write one, in several layouts, and padded batches for it."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS, LONGEST = 11, 8, 2, 16


class Builder:
    """Nodes and constants as they come; a call adds a node and gives the name of what it makes."""

    def __init__(self, seed=3):
        self.nodes, self.weights = [], {}
        self.rng = np.random.default_rng(seed)

    def __call__(self, op, *inputs, name=None, **attributes):
        made = name or f"{op.lower()}{len(self.nodes)}"
        names = [self.constant(x) if not isinstance(x, str) else x for x in inputs]
        self.nodes.append(helper.make_node(op, names, [made], f"{op}_{len(self.nodes)}", **attributes))
        return made

    def constant(self, array):
        name = f"constant{len(self.weights)}"
        array = np.asarray(array)
        self.weights[name] = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        return name

    def weight(self, *shape):
        return self.constant(self.rng.normal(0, shape[0] ** -0.5, shape))


def encoder(layout="heads", batch="batch", length="sequence", masked_with=-np.inf, mask=None):
    """Tokens and their mask, both int64 [batch, sequence], to `states` [batch, sequence, WIDTH] and `pooled`.

    layout: "heads": attention on [batch, heads, sequence, size]; "merged": on [batch * heads, sequence, size];
    "heads_first": the same, as [heads * batch, ...]; "flat": linear layers on [batch * sequence, WIDTH];
    "sequence_first": everything on [sequence, batch, WIDTH].
    masked_with: what scores of padded positions become. batch, length: dimensions of the tokens. mask: those of the
    mask where they have other names.
    """
    b = Builder()
    size = WIDTH // HEADS
    tokens = b("Gather", b.weight(VOCABULARY, WIDTH), "ids", name="tokens")
    counts = b("Gather", b("Shape", "ids"), 0, name="how_many")
    positions = b("Range", 0, b("Gather", b("Shape", "ids"), 1, name="how_long"), 1)
    places = b("Unsqueeze", b("Gather", b.weight(LONGEST, WIDTH), positions), [0], name="places")
    h = b("Add", tokens, b("Mul", places, 1.5, name="scaled_places"), name="embedded")
    padding = b("Cast", b("Unsqueeze", "mask", [1, 2]), to=TensorProto.BOOL)
    if layout == "sequence_first":
        h = b("Transpose", h, perm=[1, 0, 2], name="turned")
    if layout == "flat":
        h = b("Reshape", h, [-1, WIDTH], name="flat")
    q, k, v = (b("MatMul", h, b.weight(WIDTH, WIDTH), name=n) for n in ("q", "k", "v"))
    many = b("Concat", b("Unsqueeze", counts, [0]), [-1, HEADS, size], axis=0)

    def heads(x, name):
        if layout == "sequence_first":
            x = b("Transpose", x, perm=[1, 0, 2])
        four = b("Transpose", b("Reshape", x, many), perm=[0, 2, 1, 3], name=f"{name}_heads")
        if layout == "merged":
            return b(
                "Reshape", four, b("Concat", [-1], b("Gather", b("Shape", four), [2, 3]), axis=0), name=f"{name}_merged"
            )
        if layout == "heads_first":
            turned = b("Transpose", four, perm=[1, 0, 2, 3])
            shape = b("Concat", [-1], b("Gather", b("Shape", four), [2, 3]), axis=0)
            return b("Reshape", turned, shape, name=f"{name}_merged")
        return four

    q, k, v = (heads(x, n) for x, n in ((q, "q"), (k, "k"), (v, "v")))
    rank = 4 if layout in ("heads", "flat", "sequence_first") else 3
    keys = b("Transpose", k, perm=[*range(rank - 2), rank - 1, rank - 2], name="keys")
    scores = b("Mul", b("MatMul", q, keys), size**-0.5, name="scores")
    if rank == 3:
        shape = b("Shape", scores)
        split = [[-1, HEADS], [HEADS, -1]][layout == "heads_first"]
        to = b("Concat", split, b("Slice", shape, [1], [3]), axis=0)
        scores = b("Reshape", scores, to)
        padding = b("Transpose", padding, perm=[1, 0, 2, 3]) if layout == "heads_first" else padding
    scores = b("Where", padding, scores, masked_with, name="masked")
    scores = b("Reshape", scores, shape, name="masked_again") if rank == 3 else scores
    p = b("Softmax", scores, axis=-1, name="p")
    mixed = b("MatMul", p, v, name="mixed")
    if rank == 3:
        to = b("Concat", split, b("Gather", b("Shape", mixed), [1, 2]), axis=0)
        mixed = b("Reshape", mixed, to)
        mixed = b("Transpose", mixed, perm=[1, 0, 2, 3]) if layout == "heads_first" else mixed
    joined = b("Concat", b("Unsqueeze", counts, [0]), [-1, WIDTH], axis=0)
    h = b("Reshape", b("Transpose", mixed, perm=[0, 2, 1, 3]), joined, name="joined")
    out = b("MatMul", h, b.weight(WIDTH, WIDTH), name="states")
    first = b("Gather", out, 0, axis=1, name="first")
    b("MatMul", first, b.weight(WIDTH, 3), name="pooled")
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, [batch, length]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, mask or [batch, length]),
    ]
    ends = [("states", [None, None, WIDTH]), ("pooled", [None, 3])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends]
    weights = [numpy_helper.from_array(array, name) for name, array in b.weights.items()]
    graph = helper.make_graph(b.nodes, "encoder", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# What lies along the axes of each value: b samples, s positions, h heads, d and w features; several letters share one.
AXES = {
    "heads": {
        "embedded": "b s w",
        "scaled_places": "1 s w",
        "q": "b s w",
        "q_heads": "b h s d",
        "keys": "b h d s",
        "scores": "b h s s",
        "masked": "b h s s",
        "p": "b h s s",
        "mixed": "b h s d",
        "joined": "b s w",
        "states": "b s w",
        "first": "b w",
        "pooled": "b 3",
    },
    "merged": {"q": "b s w", "q_merged": "bh s d", "keys": "bh d s", "masked_again": "bh s s", "p": "bh s s"},
    "heads_first": {"q": "b s w", "q_merged": "hb s d", "keys": "hb d s", "masked_again": "hb s s", "mixed": "hb s d"},
    "flat": {"flat": "bs w", "q": "bs w", "q_heads": "b h s d", "p": "b h s s", "states": "b s w"},
    "sequence_first": {"turned": "s b w", "q": "s b w", "q_heads": "b h s d", "joined": "b s w"},
}


def chosen(x, axes, mask):
    """For each sample what `x` has at its positions that count; every axis where it was, those of positions shorter."""
    batch, length = mask.shape
    sizes = {"b": batch, "s": length, "h": HEADS}
    letters = axes.replace(" ", "")
    pairs = zip(axes.split(), x.shape, strict=True)
    whole = x.reshape([n if len(group) == 1 else sizes[letter] for group, n in pairs for letter in group])
    for number in range(batch):
        part = whole
        for axis, letter in enumerate(letters):
            if letter == "b":
                part = part.take([number], axis)
            if letter == "s":
                part = part.compress(mask[number] == 1, axis)
        groups = [range(len(group)) for group in axes.split()]
        shape, axis = [], 0
        for group in groups:
            shape.append(int(np.prod(part.shape[axis : axis + len(group)])))
            axis += len(group)
        yield part.reshape(shape)


def padded(lengths, longest=None, seed=0, left=False):
    """A batch of sequences of these lengths; padding is token 0."""
    rng, longest = np.random.default_rng(seed), longest or max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    mask = mask[:, ::-1].copy() if left else mask
    return {"ids": rng.integers(1, VOCABULARY, mask.shape) * mask, "mask": mask}
