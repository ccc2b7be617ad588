"""What others build on keeps its name."""

import alignment
import models


def test_alignment_exports_these_names_and_no_others() -> None:
    assert set(alignment.__all__) == {
        *("PermutationSpec", "derive_spec", "check_spec"),
        *("permute", "invert", "compose", "identity_permutation", "random_permutation"),
        *("match_weights", "match_activations", "match_straight_through", "Matching"),
        *("merge", "merge_many", "interpolate", "loss_barrier", "Barrier"),
        *("recalibrate", "batch_norm_moments", "pool_moments", "write_moments", "repair"),
        *("AlignmentError", "BatchError", "SpecError", "StateError"),
    }


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(alignment, name) for name in alignment.__all__)


def test_the_shipped_networks_keep_their_names() -> None:
    assert {"mlp", "vgg11", "vgg16", "resnet20", "resnet18", "resnet50", "gru", "transformer"} <= set(models.FAMILIES)
