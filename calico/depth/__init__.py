"""How unlike all that a checkpoint knows a picture is."""

OUT_OF_DEPTH = "out_of_depth"  # the code of the problem that says so
