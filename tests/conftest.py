"""One torch thread; the shapes in `alignment`'s annotations checked at every call."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Before any test imports them: what is imported already is not checked.
install_import_hook("alignment", "beartype.beartype")
