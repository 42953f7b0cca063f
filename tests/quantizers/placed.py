"""What a quantizer has decided, as tests compare it."""


def groups(graph) -> list[list[str]]:
    """The values of each scale."""
    return [group.values for group in graph.groups]


def floats(graph) -> set[tuple[str, int]]:
    """The inputs that are read in float: node and number."""
    return {edge for edge, config in graph.edges.items() if config.state.name == "FP32"}
