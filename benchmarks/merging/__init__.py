"""What each way of merging is worth: real Flower runs on digits and CIFAR-10, tables for `docs/merge-quality.md`."""
