"""The session authority that `coatcheck serve` runs: edge, workers, and the HTTP API they offer."""
