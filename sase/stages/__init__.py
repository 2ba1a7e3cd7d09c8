"""What a signal passes through on its way to a network and back, stage by stage, on numpy."""
