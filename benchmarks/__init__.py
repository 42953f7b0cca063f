"""The benchmarks; README.md says what each measures. Run them with `make bench`, or `python -m benchmarks.accuracy`."""
