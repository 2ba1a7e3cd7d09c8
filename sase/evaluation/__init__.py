"""After training: decoding, scoring, results pages, figures, and the release of weights."""
