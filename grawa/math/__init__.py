"""The formulas, on plain tensors; the paper's symbols are explained in `docs/notation.md`."""
