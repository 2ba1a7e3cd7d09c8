"""``sase doctor``: whether a machine can be a silo of a federation, checked before it joins; one module per subject."""
