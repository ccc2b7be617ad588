"""A Flower app of one's own: a small ResNet on scikit-learn's digits, at nodes that hold different shares of them."""
