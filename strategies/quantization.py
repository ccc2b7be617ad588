"""How masked networks become whole numbers, and of how many sites one sum has room for them."""

# Flower's defaults: values, and the share that weights them, become whole numbers 0..2²²; sums are taken modulo 2³².
quantization_steps, modulus = 2**22, 2**32
most_sites = (modulus - 1) // quantization_steps
