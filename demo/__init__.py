"""The demo: EfficientNet-Lite0 to INT8 on real photos. Run it with `make demo`, or `python -m demo`."""
