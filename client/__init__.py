"""What runs at a site: training, its own data, and answers in sums."""
