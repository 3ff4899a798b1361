"""EfficientNet-Lite0 and twenty pictures of ImageNet, see README.md."""
