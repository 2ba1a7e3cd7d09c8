"""One self-contained page about experiments: scores per utterance, sound to compare by ear, curves, configurations."""
