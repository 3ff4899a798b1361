"""What operators mean: numpy for the oracle, vector code for the kernels."""
