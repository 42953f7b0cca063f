"""Two models of one network, one of them quantized by whatever tool: which parts correspond, and where they differ."""
