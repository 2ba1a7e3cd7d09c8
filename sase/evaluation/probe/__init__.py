"""What a network does to speech and to kinds of noise, measured with stimuli that no training uses."""
