"""How unlike all that a checkpoint knows a picture is."""
