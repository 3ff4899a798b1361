"""Write the models that the benches run: `python -m scripts.make_models mlp -o x.onnx`.

Seeded numpy, unstructured zeros at places drawn at random, no training: what matters is the
shape and how many weights are zero. `bert` writes encoders in several styles of exporter, see
scripts/models/bert.py: the same seed gives the same weights in each. `mobilenet` (V1) and
`resnet50` (v1.5) keep the weights of the first layer and of the depthwise ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx

from scripts.models.bert import OUTPUTS, STYLES, bert
from scripts.models.bert_weights import Size, random_weights
from scripts.models.mlp import SIZES, mlp
from scripts.models.mobilenet import mobilenet
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50

PICTURE_NETS: dict[str, Callable[[Pictures], onnx.ModelProto]] = {
    "mobilenet": mobilenet,
    "resnet50": resnet50,
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--sparsity", type=float, default=0.9, help="share of zeros, 0..1")
    shared.add_argument("--seed", type=int, default=0)
    shared.add_argument("-o", "--output", type=Path, required=True)
    dense = kinds.add_parser("mlp", parents=[shared])
    dense.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="features")
    encoder = kinds.add_parser("bert", parents=[shared])
    for name in ("layers", "hidden", "heads", "vocabulary", "positions"):
        encoder.add_argument(f"--{name}", type=int, default=getattr(Size(), name))
    encoder.add_argument("--feed-forward", type=int, help="4 x hidden unless given")
    encoder.add_argument("--style", choices=STYLES, default="torch")
    encoder.add_argument("--opset", type=int, help="newer than the style's own")
    encoder.add_argument("--gelu", choices=["erf", "tanh"], help="instead of the style's own")
    encoder.add_argument("--mask-value", type=float, help="of padding's scores; =-inf too")
    encoder.add_argument("--blocks", action="store_true", help="zeros in 4x1 row blocks")
    encoder.add_argument(
        "--outputs", nargs="+", choices=OUTPUTS, default=["last_hidden_state"], help="in order"
    )
    for kind in PICTURE_NETS:
        net = kinds.add_parser(kind, parents=[shared])
        for name in ("resolution", "width", "classes"):
            default = getattr(Pictures(), name)
            net.add_argument(f"--{name}", type=type(default), default=default)
        net.add_argument("--blocks", action="store_true", help="zeros in 4x1 row blocks")
        net.add_argument("--folded", action="store_true", help="without BatchNormalization nodes")
    return parser


def build(args: argparse.Namespace) -> onnx.ModelProto:
    """The model asked for; ValueError says what is wrong with what was asked."""
    if not 0 <= args.sparsity <= 1:
        raise ValueError(f"sparsity: expected 0 to 1, got {args.sparsity}")
    if args.kind == "mlp":
        if len(args.sizes) < 2:
            raise ValueError(f"sizes: expected two or more, got {args.sizes}")
        return mlp(args.sizes, args.sparsity, args.seed)
    if args.kind in PICTURE_NETS:
        return PICTURE_NETS[args.kind](
            Pictures(
                resolution=args.resolution,
                width=args.width,
                classes=args.classes,
                sparsity=args.sparsity,
                seed=args.seed,
                blocks=args.blocks,
                folded=args.folded,
            )
        )
    return _bert(args)


def _bert(args: argparse.Namespace) -> onnx.ModelProto:
    size = Size(
        layers=args.layers,
        hidden=args.hidden,
        heads=args.heads,
        feed_forward=args.feed_forward or 4 * args.hidden,
        vocabulary=args.vocabulary,
        positions=args.positions,
    )
    return bert(
        size,
        random_weights(size, args.sparsity, args.seed, args.blocks),
        args.style,
        outputs=args.outputs,
        opset=args.opset,
        gelu=args.gelu,
        mask_value=args.mask_value,
    )


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    try:
        model = build(args)
    except ValueError as error:
        parser.error(str(error))
    onnx.save(model, args.output)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
