"""One module for each puzzle family, which declares a `Family`; `registry` gathers them."""
