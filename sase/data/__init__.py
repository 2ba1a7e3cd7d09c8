"""From a corpus to batches: data directories, mixtures, arks, and the pairs that training draws from."""
