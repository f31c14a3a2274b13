"""The hosted workers: their models, optimizers, buffers and losses."""
