"""gfl_jax: Generalized Focal Loss detectors in JAX and Flax."""
